"""Elements picked and put by indices; which may count from the end, where negative."""

from math import prod

import torch
from torch import Tensor

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator, scalar

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # ONNX's -> torch.scatter_reduce's


def from_front(index: Tensor, extent: int) -> Tensor:
    """Indices of which negative ones count from the end, as numbers from 0 on."""
    index = index.long()
    return torch.where(index < 0, index + extent, index)


@operator("Gather", folded=(1,))
def gather(node: Node, x: Tensor, index: Tensor | Numbers) -> Tensor:
    """Slices of an axis: the index's axes stand in the place of it."""
    axis = node["axis"] % x.ndim
    extent = x.shape[axis]
    if isinstance(index, int):
        return x.select(axis, index)
    if isinstance(index, list):
        index = torch.tensor(index, dtype=torch.int64)
        index = torch.where(index < 0, index + extent, index)
    else:
        index = from_front(index, extent)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """For each index the element at it along an axis, and at its own place along others."""
    return torch.gather(x, node["axis"], from_front(index, x.shape[node["axis"]]))


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Slices at points of the first axes behind `batch_dims` common ones; the index's last axis holds a point."""
    batched = node["batch_dims"] or 0
    batches, depth = list(x.shape[:batched]), index.shape[-1]
    spread = x.shape[batched : batched + depth]
    flat = x.reshape(prod(batches) * prod(spread), -1)
    places = linear(index.reshape(prod(batches), -1, depth), spread)
    places = places + prod(spread) * torch.arange(prod(batches))[:, None]
    picked = flat.index_select(0, places.reshape(-1))
    return picked.reshape(*batches, *index.shape[batched:-1], *x.shape[batched + depth :])


def linear(index: Tensor, extents: torch.Size) -> Tensor:
    """Points `[..., axes]` of a space of these extents as single numbers, in the order of memory."""
    place = torch.zeros(index.shape[:-1], dtype=torch.int64)
    for axis, extent in enumerate(extents):
        place = place * extent + from_front(index[..., axis], extent)
    return place


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """x with elements put at indices along an axis, or reduced with what is there."""
    axis = node["axis"] or 0
    index = from_front(index, x.shape[axis])
    how = node["reduction"] or "none"
    if how == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, REDUCTIONS[how], include_self=True)


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """x with slices put at points of its first axes, or reduced with what is there."""
    depth = index.shape[-1]
    flat = x.reshape(prod(x.shape[:depth]), -1)
    places = linear(index, x.shape[:depth]).reshape(-1, 1).expand(-1, flat.shape[1])
    updates = updates.reshape(places.shape)
    how = node["reduction"] or "none"
    if how == "none":
        return torch.scatter(flat, 0, places, updates).reshape(x.shape)
    return torch.scatter_reduce(flat, 0, places, updates, REDUCTIONS[how], include_self=True).reshape(x.shape)


@operator("OneHot", fixed=(1,))
def one_hot(node: Node, index: Tensor, depth: Numbers, values: Tensor) -> Tensor:
    """values[1] at the indices along a new axis, elsewhere values[0]."""
    depth, axis = int(scalar(depth)), node["axis"] % (index.ndim + 1)
    positions = torch.arange(depth).reshape([-1 if each == axis else 1 for each in range(index.ndim + 1)])
    index = index.unsqueeze(axis)
    return torch.where(torch.where(index < 0, index + depth, index) == positions, values[1], values[0])


@operator("Compress", fixed=(1,))
def compress(node: Node, x: Tensor, condition: Numbers) -> Tensor:
    """The slices of an axis, or the elements, for which the condition holds."""
    axis = node["axis"]
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    return x.index_select(axis, torch.tensor([at for at, holds in enumerate(condition) if holds], dtype=torch.int64))


@operator("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """Indices of elements that are not zero, `[axes, how many]`; of known values only."""
    return torch.nonzero(x).t()


@operator("ReverseSequence")
def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first elements of each sequence in reverse, so many as its length says."""
    time, batch = node["time_axis"], node["batch_axis"]
    positions = torch.arange(x.shape[time])[:, None]
    sources = torch.where(positions < lengths, lengths - 1 - positions, positions)  # [T, B]
    sources = sources if time < batch else sources.t()
    return torch.gather(x, time, sources.reshape(*sources.shape, *[1] * (x.ndim - 2)).expand(x.shape))


@operator("TensorScatter")
def tensor_scatter(node: Node, x: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """x with a stretch of an axis written anew, from `start [batch]` on; `circular` goes on at the beginning."""
    axis, count = node["axis"] % x.ndim, update.shape[node["axis"]]
    places = torch.arange(count).expand(x.shape[0], count)
    if start is not None:
        places = places + start[:, None]
    if node["mode"] == "circular":
        places = places % x.shape[axis]
    places = places.reshape([x.shape[0], *(count if each == axis else 1 for each in range(1, x.ndim))])
    return torch.scatter(x, axis, places.expand(update.shape), update)
