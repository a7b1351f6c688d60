"""From an image to the network's input, with and without augmentation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from subp.common.vision import import_torchvision
from subp.data.policies import AUTO_AUGMENT
from subp.data.preprocessing import SMALL, Preprocessing

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
