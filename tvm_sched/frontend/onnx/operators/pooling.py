"""Pooling: largest, mean and norm of windows, and their inverse."""

from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator
from tvm_sched.frontend.onnx.operators.shapes import padded
from tvm_sched.frontend.onnx.operators.windows import Windows

MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}  # by spatial axes
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def windows_of(node: Node, x: Tensor) -> tuple[Windows, tuple[int, ...], list[int]]:
    """(windows, how many there are, elements beyond the padding that the last ones reach) along each axis."""
    extents = tuple(x.shape[2:])
    windows = Windows.of(node, extents, tuple(node["kernel_shape"]))
    counts = windows.outputs(extents, bool(node["ceil_mode"]))
    beyond = [
        max((count - 1) * stride + span - (before + extent + after), 0)
        for count, stride, span, before, extent, after in zip(
            counts, windows.strides, windows.spans, windows.before, extents, windows.after, strict=True
        )
    ]
    return windows, counts, beyond


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> tuple[Tensor, ...] | Tensor:
    """The largest of each window, and its place in the flattened x."""
    windows, _, beyond = windows_of(node, x)
    pool, dtype = MAXIMUM[x.ndim - 2], x.dtype
    if not dtype.is_floating_point:
        x = x.to(torch.int32 if dtype.itemsize < 4 else dtype)  # PyTorch's pooling takes no bytes
    fits = windows.symmetric and all(2 * pad <= size for pad, size in zip(windows.before, windows.kernel, strict=True))
    if fits and not any(beyond):
        shift = (0,) * len(beyond)
        made = pool(
            x,
            windows.kernel,
            windows.strides,
            windows.before,
            windows.dilations,
            return_indices=node.outputs > 1,
        )
        extents = tuple(x.shape[2:])
    else:
        lowest = -torch.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        around = padded(
            padded(x, list(zip(windows.before, windows.after, strict=True)), lowest),
            [(0, more) for more in beyond],
            lowest,
        )
        shift, extents = windows.before, tuple(around.shape[2:])
        made = pool(around, windows.kernel, windows.strides, 0, windows.dilations, return_indices=node.outputs > 1)
    if node.outputs < 2:
        return as_type(made, dtype)
    return as_type(made[0], dtype), places(made[1], extents, shift, x.shape, bool(node["storage_order"]))


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in that type; itself where it is."""
    return x if x.dtype == dtype else x.to(dtype)


def places(
    index: Tensor, extents: tuple[int, ...], shift: tuple[int, ...], shape: torch.Size, by_columns: bool
) -> Tensor:
    """PyTorch's indices into a channel of `extents`, padded by `shift` before, as ONNX's into the whole tensor of
    `shape`; `by_columns`: the first spatial axis runs fastest.
    """
    coordinates = []
    for extent, before in zip(reversed(extents), reversed(shift), strict=True):
        coordinates.insert(0, index % extent - before)
        index = index // extent
    spatial = list(zip(coordinates, shape[2:], strict=True))
    place = torch.zeros_like(index)
    for coordinate, extent in reversed(spatial) if by_columns else spatial:
        place = place * extent + coordinate
    channels = torch.arange(shape[0] * shape[1]).reshape(*shape[:2], *[1] * len(extents))
    return channels * prod(shape[2:]) + place


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window; what is padded counts with `count_include_pad`, what lies beyond it never."""
    windows, counts, beyond = windows_of(node, x)
    include = bool(node["count_include_pad"])
    fits = windows.symmetric and all(2 * pad <= size for pad, size in zip(windows.before, windows.kernel, strict=True))
    if fits and not any(beyond) and set(windows.dilations) == {1}:
        return MEAN[x.ndim - 2](x, windows.kernel, windows.strides, windows.before, False, include)
    around = padded(windows.pad(x), [(0, more) for more in beyond])
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    counted = padded(windows.pad(ones, 1 if include else 0), [(0, more) for more in beyond])
    return sums(around, windows, counts) / sums(counted, windows, counts)


def sums(x: Tensor, windows: Windows, counts: tuple[int, ...]) -> Tensor:
    """The sum of each window of `x [N, C, ...]`, which is padded already."""
    axes = len(counts)
    if set(windows.dilations) == {1} and axes in MEAN:
        return MEAN[axes](x, windows.kernel, windows.strides) * prod(windows.kernel)
    total = None
    for offsets in product(*map(range, windows.kernel)):
        part = x
        for axis in range(axes):
            start = offsets[axis] * windows.dilations[axis]
            end = start + (counts[axis] - 1) * windows.strides[axis] + 1
            part = part[(slice(None),) * (2 + axis) + (slice(start, end, windows.strides[axis]),)]
        total = part if total is None else total + part
    return total


@operator("LpPool")
def norm_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    windows, counts, beyond = windows_of(node, x)
    p = 2 if node["p"] is None else node["p"]
    around = padded(windows.pad(x.abs()), [(0, more) for more in beyond])
    return sums(around.pow(p), windows, counts).pow(1 / p)


def spatial(x: Tensor) -> list[int]:
    """The axes behind batch and channels."""
    return list(range(2, x.ndim))


operator("GlobalAveragePool")(lambda node, x: x.mean(spatial(x), keepdim=True))
operator("GlobalMaxPool")(lambda node, x: x.amax(spatial(x), keepdim=True))


@operator("GlobalLpPool")
def global_norm_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each channel."""
    p = 2 if node["p"] is None else node["p"]
    return x.abs().pow(p).sum(spatial(x), keepdim=True).pow(1 / p)


@operator("MaxUnpool", fixed=(2,))
def max_unpool(node: Node, x: Tensor, index: Tensor, extents: Numbers = None) -> Tensor:
    """x at its places in the flattened result, zeros elsewhere; a larger result is filled with zeros."""
    axes = x.ndim - 2
    windows = Windows.of(node, tuple(x.shape[2:]), tuple(node["kernel_shape"]))
    own = [
        (x.shape[2 + axis] - 1) * windows.strides[axis]
        - (windows.before[axis] + windows.after[axis])
        + windows.kernel[axis]
        for axis in range(axes)
    ]
    shape = [*x.shape[:2], *own]
    result = x.new_zeros(prod(shape)).scatter(0, index.reshape(-1), x.reshape(-1)).reshape(shape)
    if extents is None:
        return result
    return padded(result, [(0, more - extent) for more, extent in zip(extents[2:], own, strict=True)])
