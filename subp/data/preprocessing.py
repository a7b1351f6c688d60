"""What is done to an image before a network sees it, and what a checkpoint remembers of that: in NumPy and PIL, for
those who run a network without PyTorch. `data/transforms.py` does the same in PyTorch, for training.
"""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

SMALL = 64  # pixels: up to here images are treated as CIFAR's, above as ImageNet's


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

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The input [channels, size, size], float32, of an image: `transforms.evaluation`'s, to the last bit."""
        coloured = image.convert("RGB" if self.channels == 3 else "L")
        small = _resized(coloured, self.resize)
        pixels = np.atleast_3d(np.asarray(_central(small, self.size))).transpose(2, 0, 1)
        mean, std = (np.array(each, np.float32).reshape(-1, 1, 1) for each in (self.mean, self.std))
        return np.ascontiguousarray((pixels.astype(np.float32) * np.float32(1 / 255) - mean) / std)


def _resized(image: Image.Image, shorter: int) -> Image.Image:
    """Its shorter side of so many pixels, the longer rounded down."""
    width, height = image.size
    low = min(width, height)
    size = (int(shorter * width / low), int(shorter * height / low))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def _central(image: Image.Image, size: int) -> Image.Image:
    """Its central size x size pixels, black around an image of less."""
    rests = [extent - size for extent in image.size]
    left, top = (
        round(rest / 2) if rest > 0 else -(-rest // 2) for rest in rests
    )  # torchvision's two ways with odd ones
    return image.crop((left, top, left + size, top + size))
