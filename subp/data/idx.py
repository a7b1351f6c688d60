"""MNIST's idx files: big-endian header (magic, sizes), then unsigned bytes (format: yann.lecun.com/exdb/mnist)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from subp_contract.errors import UserError, require
from subp_contract.files import require_file, require_unpacked

TRAIN, VAL = "train", "t10k"


def find(folder: Path, part: str, kind: str) -> Path | None:
    """The folder's file of a part ("train", "t10k") and kind ("images-idx3", "labels-idx1"), .gz or not, or None."""
    for spelling in (f"{part}-{kind}-ubyte", f"{part}-{kind}-ubyte".replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


def read(path: Path) -> Tensor:
    """uint8 tensor of the file's shape. Raises UserError for a file that is damaged or no idx file of bytes."""
    packed = require_file(path).stat().st_size
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08":
                raise UserError(f"{path} is not an idx file of bytes")
            axes = start[3]
            sizes = file.read(4 * axes)
            require(len(sizes) == 4 * axes, f"{path} is truncated: it ends in its header")
            shape = struct.unpack(f">{axes}I", sizes)
            size = math.prod(shape)
            require_unpacked(path, packed, size)
            content = bytearray(file.read(size + 1))  # one more, to see whether the file ends there
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    require(len(content) >= size, f"{path} is truncated: {len(content)} bytes instead of {size}")
    require(len(content) == size, f"{path} is damaged: it has more than the {size} bytes that its header says")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def dataset(folder: Path, part: str) -> TensorDataset:
    """(uint8 image [1, H, W], label) for each image of the part."""
    paths = {kind: find(folder, part, kind) for kind in ("images-idx3", "labels-idx1")}
    for kind, path in paths.items():
        if path is None:
            raise UserError(f"{folder} has no {part}-{kind}-ubyte file (.gz or not)")
    images, labels = (read(path) for path in paths.values())
    if len(images) != len(labels):
        raise UserError(f"{folder} has {len(images)} images but {len(labels)} labels in its {part} files")
    return TensorDataset(images.unsqueeze(1), labels.long())
