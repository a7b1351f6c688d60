"""What loading costs: microseconds an image, of training and of validation batches, best of three epochs.

    OMP_NUM_THREADS=1 python scripts/bench_input.py [DATA ...]

DATA as of `subp train`, of which at most 4096 images are loaded; besides, 2048 colour images of 32x32 in memory, and
the digits.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.data import DataLoader, Subset

from subp.data.loaders import Data, Loading, batches, datasets, digits, from_tensors, train_batches, val_batches

MOST = 4096
LOADING = Loading(64)


def in_memory() -> Data:
    """Noise, as bytes."""
    images = torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = images, torch.arange(2048) % 10
    return from_tensors(part, part, [str(number) for number in range(10)], mirror=True)


def cut(data: Data) -> Data:
    """At most so many of its images."""
    parts = {part: getattr(data, part) for part in ("train", "val")}
    return replace(data, **{part: Subset(items, range(min(len(items), MOST))) for part, items in parts.items()})


def microseconds(loader: Callable[[], DataLoader]) -> float:
    """An image's, in the fastest of three epochs."""
    best = float("inf")
    for _ in range(3):
        started, images = time.perf_counter(), 0
        for batch, _ in batches(loader()):
            images += len(batch)
        best = min(best, (time.perf_counter() - started) / images)
    return 1e6 * best


def main() -> None:
    """Prints a line for each."""
    torch.set_num_threads(1)
    kinds = {"32x32 in memory": in_memory(), "digits": digits(), **{spec: cut(datasets(spec)) for spec in sys.argv[1:]}}
    for name, data in kinds.items():
        train = microseconds(lambda data=data: train_batches(data, 0, LOADING, seed=0))
        val = microseconds(lambda data=data: val_batches(data, LOADING))
        print(f"{name}: {train:.1f} us an image to train on, {val:.1f} to validate on")


if __name__ == "__main__":
    main()
