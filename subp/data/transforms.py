"""From an image to the network's input, with and without augmentation, and what a checkpoint remembers of it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from subp.common.vision import import_torchvision
from subp.data.policies import AUTO_AUGMENT

SMALL = 64  # pixels: up to here augmentation is CIFAR's, above ImageNet's


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it: colour or grey, the shorter side resized to `resize` pixels
    (bilinear, antialiased), the central size x size pixels taken, scaled to [0, 1], then (x - mean) / std by channel.
    """

    size: int
    resize: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def standard(cls, size: int, channels: int) -> "Preprocessing":
        """The usual choices: ImageNet's statistics in colour, [-1, 1] in grey; large images resized to 8/7 size."""
        resize = size if size <= SMALL else round(size * 8 / 7)
        if channels == 3:
            return cls(size, resize, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return cls(size, resize, channels, (0.5,) * channels, (0.5,) * channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one input."""
        return self.channels, self.size, self.size

    def as_dict(self) -> dict:
        """JSON-able."""
        return asdict(self)


Transform = Callable[[object], Tensor]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def evaluation(preprocessing: Preprocessing) -> Transform:
    """PIL image, or tensor [C, H, W] (uint8, or float in [0, 1]) -> float [channels, size, size]. Deterministic."""
    return _pipeline(preprocessing, [centre(preprocessing, preprocessing.resize)])


def augmentation(
    preprocessing: Preprocessing, mirror: bool, auto_augment: str | None = None, random_erase: float = 0.0
) -> Transform:
    """As `evaluation`, randomly (from PyTorch's global generator): small images shifted by up to 1/8, large ones
    cropped and scaled, and half of them mirrored where `mirror` says that this keeps the class.

    auto_augment:  a policy besides, by its name in config.AUTO_AUGMENT
    random_erase:  probability that a rectangle of the image is blanked
    """
    v2 = import_torchvision().transforms.v2
    size = preprocessing.size
    if size <= SMALL:
        geometry = [centre(preprocessing, size), v2.RandomCrop(size, padding=size // 8)]
    else:
        geometry = [v2.RandomResizedCrop(size)]
    geometry += [v2.RandomHorizontalFlip()] if mirror else []
    geometry += [getattr(v2, AUTO_AUGMENT[auto_augment])()] if auto_augment else []
    return _pipeline(preprocessing, geometry, [erasing(random_erase)] if random_erase else [])


def mixing(classes: int, mixup: float, cutmix: float) -> Mixing | None:
    """(images [B, C, S, S], labels [B]) -> images mixed in pairs, labels [B, classes] in proportion, randomly (from
    PyTorch's global generator); by mixup or cutmix of these parameters alpha of their beta distributions, 0 for not,
    or for each batch one of both. None if neither.
    """
    v2 = import_torchvision().transforms.v2
    ways = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    ways += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
    return v2.RandomChoice(ways) if ways else None


def colour(preprocessing: Preprocessing) -> Callable:
    """Image, or batch of tensors -> the same in colour or grey."""
    v2 = import_torchvision().transforms.v2
    return v2.RGB() if preprocessing.channels == 3 else v2.Grayscale(1)


def centre(preprocessing: Preprocessing, resize: int) -> Callable:
    """Image, or batch of tensors -> its central size x size pixels, after the shorter side is resized."""
    v2 = import_torchvision().transforms.v2
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(preprocessing.size)])


def as_tensor(image: Any) -> Tensor:
    """PIL image -> uint8 [C, H, W]."""
    return import_torchvision().transforms.v2.functional.pil_to_tensor(image)


def as_fractions(images: Tensor) -> Tensor:
    """uint8, or float in [0, 1] -> float32 in [0, 1]."""
    return import_torchvision().transforms.v2.functional.to_dtype(images, torch.float32, scale=True)


def finished(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """uint8, or float in [0, 1], [..., C, H, W] -> (x - mean) / std by channel."""
    v2 = import_torchvision().transforms.v2
    return v2.Compose([as_fractions, v2.Normalize(list(preprocessing.mean), list(preprocessing.std))])


def erasing(probability: float) -> Callable[[Tensor], Tensor]:
    """Blanks a rectangle, randomly (from PyTorch's global generator)."""
    return import_torchvision().transforms.v2.RandomErasing(probability)


def _pipeline(preprocessing: Preprocessing, geometry: list, last: Sequence = ()) -> Transform:
    v2 = import_torchvision().transforms.v2
    steps = [colour(preprocessing), *geometry, v2.ToImage(), finished(preprocessing), *last, v2.ToPureTensor()]
    return v2.Compose(steps)
