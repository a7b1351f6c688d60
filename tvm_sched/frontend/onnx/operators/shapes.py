"""Shapes: reshaped, cut, joined, moved, padded, repeated; and tensors made from a shape."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator, scalar
from tvm_sched.frontend.onnx.tensors import torch_dtype


@operator("Shape", of_shape=True)
def shape(node: Node, x: Tensor) -> Tensor:
    """The extents from `start` to `end`."""
    return torch.tensor(list(x.shape)[slice(node["start"], node["end"])], dtype=torch.int64)


@operator("Size", of_shape=True)
def size(node: Node, x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(x.numel())


@operator("ConstantOfShape", fixed=(0,))
def constant_of_shape(node: Node, extents: Numbers) -> Tensor:
    """A tensor of one value, by default 0."""
    value = torch.zeros(1) if node["value"] is None else node["value"]
    return value.reshape(()).expand(extents).clone()


@operator("EyeLike", of_shape=True)
def eye_like(node: Node, x: Tensor) -> Tensor:
    """1 on the diagonal `k` of a matrix of the shape of x."""
    dtype = x.dtype if node["dtype"] is None else torch_dtype(node["dtype"])
    rows, columns = x.shape
    return (torch.arange(columns) - torch.arange(rows)[:, None] == (node["k"] or 0)).to(dtype)


@operator("Range", fixed=(0, 1, 2))
def range_of(node: Node, start: Numbers, limit: Numbers, delta: Numbers) -> Tensor:
    """start, start + delta, ... below the limit."""
    return torch.arange(scalar(start), scalar(limit), scalar(delta))


@operator("Reshape", fixed=(1,))
def reshape(node: Node, x: Tensor, extents: Numbers = None) -> Tensor:
    """To other extents: 0 keeps that of the axis (unless `allowzero`), one may be -1."""
    extents = node["shape"] if extents is None else extents
    if not node["allowzero"]:
        extents = [x.shape[axis] if extent == 0 else extent for axis, extent in enumerate(extents)]
    return x.reshape(extents)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """To a matrix, whose rows are the axes before the node's."""
    axis = node["axis"] + x.ndim if node["axis"] < 0 else node["axis"]
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Axes in another order, by default the reverse."""
    return x.permute(list(range(x.ndim))[::-1] if node["perm"] is None else node["perm"])


@operator("Squeeze", fixed=(1,))
def squeeze(node: Node, x: Tensor, axes: Numbers = None) -> Tensor:
    """Without axes of extent 1, all or those given."""
    axes = node["axes"] if axes is None else axes
    chosen = [axis for axis in range(x.ndim) if x.shape[axis] == 1] if axes is None else axes
    if any(x.shape[axis] != 1 for axis in chosen):
        raise ValueError(f"axes {chosen} of {list(x.shape)} are not all of extent 1")
    dropped = {axis % x.ndim for axis in chosen}
    return x.reshape([extent for axis, extent in enumerate(x.shape) if axis not in dropped])


@operator("Unsqueeze", fixed=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Numbers = None) -> Tensor:
    """With new axes of extent 1, which are numbered in the result."""
    axes = node["axes"] if axes is None else axes
    axes = [axes] if isinstance(axes, int) else axes
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Node, *xs: Tensor) -> Tensor:
    """Joined along an axis."""
    return torch.cat(xs, 1 if node["axis"] is None else node["axis"])


@operator("Split", fixed=(1,))
def split(node: Node, x: Tensor, sizes: Numbers = None) -> tuple[Tensor, ...]:
    """Cut along an axis, into sizes given or into equal parts, of which the last may be smaller."""
    axis = node["axis"] or 0
    sizes = node["split"] if sizes is None else sizes
    if sizes is None:
        count = node["num_outputs"] or node.outputs
        most = -(-x.shape[axis] // count)
        sizes = [max(0, min(most, x.shape[axis] - most * part)) for part in range(count)]
    return torch.split(x, sizes, axis)


@operator("Slice", fixed=(1, 2, 3, 4))
def slices(
    node: Node, x: Tensor, starts: Numbers = None, ends: Numbers = None, axes: Numbers = None, steps: Numbers = None
) -> Tensor:
    """From start to end along axes, as Python's slices; backwards where a step is negative."""
    if starts is None:
        starts, ends, axes = node["starts"], node["ends"], node["axes"]
    axes = range(len(starts)) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        x = along(x, axis % x.ndim, range(*slice(start, end, step).indices(x.shape[axis])))
    return x


def along(x: Tensor, axis: int, picked: range) -> Tensor:
    """The elements of `x` at these positions of an axis."""
    if picked == range(x.shape[axis]):
        return x
    if not picked:
        return x.narrow(axis, 0, 0)
    first, last = sorted((picked[0], picked[-1]))
    x = x[(slice(None),) * axis + (slice(first, last + 1, abs(picked.step)),)]
    return x.flip(axis) if picked.step < 0 else x


@operator("Expand", fixed=(1,))
def expand(node: Node, x: Tensor, extents: Numbers) -> Tensor:
    """Broadcast with a shape."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(extents)))


@operator("Tile", fixed=(1, 2))
def tile(node: Node, x: Tensor, repeats: Numbers, axis: Numbers = None) -> Tensor:
    """Repeated along each axis; in opset 1 along one."""
    if axis is not None:
        repeats = [scalar(repeats) if each == scalar(axis) else 1 for each in range(x.ndim)]
    return x.repeat(repeats)


@operator("Trilu", fixed=(1,))
def trilu(node: Node, x: Tensor, k: Numbers = None) -> Tensor:
    """The upper or the lower triangle of the matrices in the last two axes, from diagonal k on."""
    return x.triu(scalar(k, 0)) if node["upper"] else x.tril(scalar(k, 0))


@operator("Pad", fixed=(1, 3), folded=(2,))
def pad(node: Node, x: Tensor, pads: Numbers = None, value: Tensor | Numbers = None, axes: Numbers = None) -> Tensor:
    """More elements before and after along axes, or fewer where negative."""
    if pads is None:
        pads, value = node["pads"] or node["paddings"], node["value"]
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    sides = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if node["mode"] == "constant":
        around = [sides.get(axis, (0, 0)) for axis in range(x.ndim)]
        if not isinstance(value, Tensor):
            return padded(x, around, scalar(value, 0))
        inside = padded(torch.ones(x.shape, dtype=torch.bool), around)
        return torch.where(inside, padded(x, around), value)
    for axis, (before, after) in sides.items():
        if before or after:
            x = x.index_select(axis, torch.tensor(mirrored(x.shape[axis], before, after, node["mode"])))
    return x


def padded(x: Tensor, sides: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
    """With a constant around, so many elements (before, after) along each of the last axes; negative numbers crop."""
    flat = [count for pair in reversed(sides) for count in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def mirrored(extent: int, before: int, after: int, mode: str) -> list[int]:
    """Where each element of an axis comes from that is padded by 'reflect', 'edge' or 'wrap'."""
    positions = range(-before, extent + after)
    if mode == "edge":
        return [min(max(position, 0), extent - 1) for position in positions]
    if mode == "wrap":
        return [position % extent for position in positions]
    period = max(2 * (extent - 1), 1)  # reflect: 0 1 2 3 2 1 | 0 1 ...
    return [min(position % period, -position % period) for position in positions]


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels as blocks of pixels; DCR: the block's axes before the channels', CRD: after."""
    batch, channels, height, width = x.shape
    block = node["blocksize"]
    kept = channels // block**2
    if node["mode"] == "CRD":
        return F.pixel_shuffle(x, block)
    x = x.reshape(batch, block, block, kept, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, kept, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Blocks of pixels as channels; DCR: the block's axes before the channels', CRD: after."""
    batch, channels, height, width = x.shape
    block = node["blocksize"]
    if node["mode"] == "CRD":
        return F.pixel_unshuffle(x, block)
    x = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * block**2, height // block, width // block)


@operator("CenterCropPad", fixed=(1,))
def center_crop_pad(node: Node, x: Tensor, extents: Numbers) -> Tensor:
    """Cropped or padded with zeros about the middle, to these extents of the axes."""
    axes = range(x.ndim) if node["axes"] is None else [axis % x.ndim for axis in node["axes"]]
    sides = [(0, 0)] * x.ndim
    for axis, extent in zip(axes, extents, strict=True):
        missing = extent - x.shape[axis]
        before = missing // 2 if missing >= 0 else -(-missing // 2)
        sides[axis] = (before, missing - before)
    return padded(x, sides)
