"""From the images of a batch, as stored, to the network's inputs: in one piece where each image can have its own draws.

Each is (images, their numbers in the data set) -> float [B, C, size, size]; the images are one tensor [B, C, H, W], or
single ones, PIL images or tensors [C, H, W]. Whatever is random depends on the seed and an image's number alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subp.common.seeds import derived_seed, generator
from subp.data import transforms
from subp.data.preprocessing import Preprocessing

BatchTransform = Callable[[Tensor | Sequence[Any], Sequence[int]], Tensor]


class Evaluation:
    """`transforms.evaluation` of each image."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._sized, self._finished = _Sized(preprocessing, preprocessing.resize), transforms.finished(preprocessing)

    def __call__(self, images: Tensor | Sequence[Any], numbers: Sequence[int]) -> Tensor:
        return self._finished(self._sized(images))


class ShiftAndMirror:
    """What `transforms.augmentation` does to small images: shifted by up to 1/8 over black, half of them mirrored where
    `mirror` says so, with probability `random_erase` a rectangle blanked.

    count:  of the images in the data set
    """

    def __init__(
        self, preprocessing: Preprocessing, mirror: bool, random_erase: float, seed: tuple[int | str, ...], count: int
    ) -> None:
        self._sized, self._finished = _Sized(preprocessing, preprocessing.size), transforms.finished(preprocessing)
        self._size, self._margin, self._seed = preprocessing.size, preprocessing.size // 8, seed
        self._erase = transforms.erasing(1.0)
        draws = generator(*seed)
        self._corners = torch.randint(2 * self._margin + 1, (count, 2), generator=draws)
        self._mirrored = (torch.rand(count, generator=draws) < 0.5) & mirror
        self._erased = torch.rand(count, generator=draws) < random_erase

    def __call__(self, images: Tensor | Sequence[Any], numbers: Sequence[int]) -> Tensor:
        batch = self._finished(self._shifted(self._sized(images), torch.as_tensor(numbers)))
        for place, number in enumerate(numbers):
            if self._erased[number]:
                with _seeded(*self._seed, number):
                    batch[place] = self._erase(batch[place])
        return batch

    def _shifted(self, batch: Tensor, numbers: Tensor) -> Tensor:
        """[B, C, size, size], each image from its own corner of the one with black margins."""
        windows = pad(batch, [self._margin] * 4).unfold(2, self._size, 1).unfold(3, self._size, 1)
        tops, lefts = self._corners[numbers].T
        shifted = windows[torch.arange(len(batch)), :, tops, lefts].contiguous()
        mirrored = self._mirrored[numbers]
        shifted[mirrored] = shifted[mirrored].flip(-1)
        return shifted


class OneByOne:
    """A random transform of each image, from PyTorch's global generator, which is left as it was."""

    def __init__(self, transform: transforms.Transform, seed: tuple[int | str, ...]) -> None:
        self._transform, self._seed = transform, seed

    def __call__(self, images: Tensor | Sequence[Any], numbers: Sequence[int]) -> Tensor:
        return torch.stack([self._one(image, number) for image, number in zip(images, numbers, strict=True)])

    def _one(self, image: Any, number: int) -> Tensor:
        with _seeded(*self._seed, number):
            return self._transform(image)


@contextlib.contextmanager
def _seeded(*seed: int | str) -> Iterator[None]:
    """PyTorch's global generator, seeded inside, and afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(*seed))
        yield


class _Sized:
    """Images -> [B, C, size, size], uint8 or fractions as they are stored: grey or colour, resized and cropped."""

    def __init__(self, preprocessing: Preprocessing, resize: int) -> None:
        self._colour, self._geometry = transforms.colour(preprocessing), transforms.centre(preprocessing, resize)
        self._size = preprocessing.size
        self._keeps = resize == preprocessing.size  # images of that size

    def __call__(self, images: Tensor | Sequence[Any]) -> Tensor:
        if isinstance(images, Tensor):
            return self._of(images)
        each = [self._of(image) for image in images]
        if len({image.dtype for image in each}) > 1:
            each = [transforms.as_fractions(image) for image in each]
        return torch.stack(each)

    def _of(self, image: Any) -> Tensor:
        image = self._colour(image)
        size = tuple(image.shape[-2:]) if isinstance(image, Tensor) else image.size
        if not self._keeps or size != (self._size, self._size):
            image = self._geometry(image)
        return image if isinstance(image, Tensor) else transforms.as_tensor(image)
