"""From an image to the network's input, by Pillow and NumPy alone: what a program that only runs networks needs."""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

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

    def of_image(self, image: Image.Image) -> np.ndarray:
        """The network's input float32 [channels, size, size] of an image: bit for bit what torchvision's transforms v2
        make of it. Deterministic.
        """
        image = image.convert("RGB" if self.channels == 3 else "L")
        image = _central(_resized(image, self.resize), self.size)
        pixels = np.asarray(image, dtype="float32").reshape(self.size, self.size, -1).transpose(2, 0, 1)
        mean, std = (np.array(each, "float32")[:, None, None] for each in (self.mean, self.std))
        return np.ascontiguousarray((pixels * np.float32(1 / 255) - mean) / std)


def _resized(image: Image.Image, shorter: int) -> Image.Image:
    """With a shorter side of so many pixels, bilinear, antialiased."""
    if min(image.size) == shorter:
        return image
    width, height = (shorter * side // min(image.size) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _central(image: Image.Image, size: int) -> Image.Image:
    """The central size x size pixels; black where the image ends before."""
    left, top = (round((side - size) / 2) if side >= size else -((size - side) // 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))
