"""Drawn shapes to find: images with two of them each, what every pixel belongs to, and a box around each shape.

    python examples/drawn_shapes.py shapes --size 160      # as a data set of images and labels, with shapes/data.yaml

What the examples of segmentation and detection learn from.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NAMES = ("square", "disc", "triangle")


class Drawn(NamedTuple):
    """images [B, 3, S, S] from 0 to 1; pixels [B, S, S], 0 or 1 + the class; boxes [B, 2, 4] of x0, y0, x1, y1 in
    pixels; classes [B, 2].
    """

    images: Tensor
    pixels: Tensor
    boxes: Tensor
    classes: Tensor


def draw(count: int, size: int, seed: int) -> Drawn:
    """Images of that many pixels a side: a shape in the left half and one in the right, in front of noise."""
    random = np.random.default_rng(seed)
    images = random.uniform(0, 0.5, (count, 3, 1, 1)) + random.normal(0, 0.08, (count, 3, size, size))
    pixels = np.zeros((count, size, size), dtype=np.int64)
    boxes, classes = np.zeros((count, 2, 4)), random.integers(0, len(NAMES), (count, 2))
    for image in range(count):
        for side in range(2):
            radius = int(random.integers(size // 8, size // 5 + 1))
            x = int(random.integers(radius, size // 2 - radius + 1)) + side * size // 2
            y = int(random.integers(radius, size - radius + 1))
            inside = shape(classes[image, side], size, x, y, radius)
            images[image][:, inside] = random.uniform(0.3, 1, (3, 1)) + random.normal(0, 0.05, (3, inside.sum()))
            pixels[image][inside] = 1 + classes[image, side]
            boxes[image, side] = (x - radius, y - radius, x + radius, y + radius)
    numbers = torch.from_numpy(images.clip(0, 1)).float()
    return Drawn(numbers, torch.from_numpy(pixels), torch.from_numpy(boxes).float(), torch.from_numpy(classes))


def shape(kind: int, size: int, x: int, y: int, radius: int) -> np.ndarray:
    """Which pixels [S, S] belong to it, of a box of 2 * radius around (x, y)."""
    down, right = np.mgrid[:size, :size] + 0.5
    down, right = down - y, right - x
    if NAMES[kind] == "disc":
        return down**2 + right**2 < radius**2
    if NAMES[kind] == "triangle":
        return (abs(right) < (down + radius) / 2) & (abs(down) < radius)
    return (abs(down) < radius) & (abs(right) < radius)


def write(folder: Path, counts: dict[str, int], size: int) -> Path:
    """A data set in YOLO's form, images/PART/I.png and labels/PART/I.txt; returns the file that describes it."""
    for seed, (part, count) in enumerate(counts.items()):
        drawn = draw(count, size, seed)
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        corners = drawn.boxes / size
        centres = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)
        for number in range(count):
            image = (drawn.images[number].permute(1, 2, 0) * 255).byte().numpy()
            Image.fromarray(image).save(folder / "images" / part / f"{number}.png")
            lines = (
                " ".join([str(int(kind)), *(f"{value:.5f}" for value in box)])
                for kind, box in zip(drawn.classes[number], centres[number].tolist(), strict=True)
            )
            (folder / "labels" / part / f"{number}.txt").write_text("\n".join(lines) + "\n")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    about = folder / "data.yaml"
    about.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return about


def main() -> None:
    """Writes the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=160, help="of the images, in pixels")
    parser.add_argument("--train", type=int, default=256, help="images to train with")
    parser.add_argument("--val", type=int, default=64, help="images to judge by")
    options = parser.parse_args()
    print(write(options.folder, {"train": options.train, "val": options.val}, options.size))


if __name__ == "__main__":
    main()
