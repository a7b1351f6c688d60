"""Operators that pick or replace elements by computed positions."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from tvm import relax, te, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, at, computing, converts
from tvm_sched.frontend.aten.views import sliced
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


def positions(builder: Builder, index: relax.Expr, extent: int) -> relax.Expr:
    """Positions along an axis in int32, those below 0 counted from the end."""
    if (known := builder.known(index)) is not None:
        return builder.constant(torch.where(known < 0, known + extent, known).to(torch.int32))
    index = builder.cast(index, "int32")
    return builder.pointwise(
        lambda i: tirx.Select(i < 0, i + tirx.const(extent, "int32"), i), index, name="from_the_start"
    )


def picked(builder: Builder, x: relax.Expr, places: relax.Expr, axis: int) -> relax.Expr:
    """x[..., places, ...]; `places` within the extent."""
    shape, rank = shape_of(x), len(shape_of(places))
    if builder.known(places) is not None:  # which the passes that follow know to move through layouts
        return builder.emit(rx.take(x, places, axis, mode="fast"))
    wide = [*shape[:axis], *shape_of(places), *shape[axis + 1 :]]

    def taken(source: te.Tensor, table: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            where = table(*position[axis : axis + rank])
            return source(*position[:axis], inside(where, shape[axis]), *position[axis + rank :])

        return te.compute(wide, element, name="take")

    return builder.te(taken, x, places, name="take")


def gathered(builder: Builder, x: relax.Expr, axis: int, places: relax.Expr) -> relax.Expr:
    """x at `places` along one axis, at its own position along the others."""
    extent = shape_of(x)[axis]

    def gather(source: te.Tensor, table: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            return source(*position[:axis], inside(table(*position), extent), *position[axis + 1 :])

        return te.compute(shape_of(places), element, name="gather")

    return builder.te(gather, x, places)


def inside(index: Any, extent: int) -> Any:
    """An index that reads memory of the tensor whatever a wrong input says: PyTorch raises an error there."""
    return tirx.max(tirx.min(index, tirx.const(extent - 1, index.ty.dtype)), tirx.const(0, index.ty.dtype))


@converts("index_select")
def index_select(builder: Builder, x: relax.Expr, dim: int, index: relax.Expr) -> relax.Expr:
    """Slices along an axis."""
    if not shape_of(x):
        return builder.reshape(x, builder.shape)
    axis = dim % len(shape_of(x))
    places = positions(builder, builder.reshape(index, [torch.Size(shape_of(index)).numel()]), shape_of(x)[axis])
    return picked(builder, x, places, axis)


@converts("embedding")
def embedding(builder: Builder, weight: relax.Expr, indices: relax.Expr, *_: Any) -> relax.Expr:
    """Rows of a table."""
    return picked(builder, weight, positions(builder, indices, shape_of(weight)[0]), 0)


@converts("gather")
def gather(builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, _sparse_grad: bool) -> relax.Expr:
    """x at the index along one axis, at its own position along the others."""
    if not shape_of(x):
        return builder.broadcast(x, builder.shape)
    axis = dim % len(shape_of(x))
    return gathered(builder, x, axis, positions(builder, index, shape_of(x)[axis]))


@converts("index.Tensor", "_unsafe_index.Tensor")
def index_tensor(builder: Builder, x: relax.Expr, indices: Sequence[relax.Expr | None]) -> relax.Expr:
    """x[indices]: tensors of positions that broadcast, along some axes; where these are neighbours the result has them
    there, else first (NumPy's rule).
    """
    shape = shape_of(x)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if any(dtype_of(indices[axis]) == "bool" for axis in axes):
        raise NotImplementedError("it picks by a mask, so that the size of the result depends on values")
    places = [positions(builder, indices[axis], shape[axis]) for axis in axes]
    if len(axes) == 1:
        return picked(builder, x, places[0], axes[0])
    common = list(torch.broadcast_shapes(*(shape_of(each) for each in places)))
    neighbours = axes == list(range(axes[0], axes[-1] + 1))
    first = axes[0] if neighbours else 0
    wide = builder.shape

    def indexed(source: te.Tensor, *tables: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            chosen = position[first : first + len(common)]
            rest = [*position[:first], *position[first + len(common) :]]
            where = {
                axis: inside(tensor(*at(chosen, tensor.shape)), shape[axis])
                for axis, tensor in zip(axes, tables, strict=True)
            }
            return source(*(where[axis] if axis in where else rest.pop(0) for axis in range(len(shape))))

        return te.compute(wide, element, name="index")

    return builder.te(indexed, x, *places)


# Replacing.

REDUCTIONS = {"add": "add", "sum": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min"}


def scattered(
    builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, source: relax.Expr, reduction: str = "update"
) -> relax.Expr:
    """x with the source's elements at the index along one axis, at their own position along the others."""
    if not shape_of(x):
        made = scattered(
            builder, builder.reshape(x, [1]), 0, builder.reshape(index, [-1]), builder.reshape(source, [-1]), reduction
        )
        return builder.reshape(made, [])
    axis = dim % len(shape_of(x))
    dtype = dtype_of(x)
    numbers = "uint8" if dtype == "bool" else computing(dtype)
    x, source = (builder.cast(each, numbers) for each in (x, source))
    if list(shape_of(source)) != list(shape_of(index)):
        for i, extent in enumerate(shape_of(index)):
            source = sliced(builder, source, i, 0, extent)
    if not all(shape_of(index)):
        return builder.cast(x, dtype)
    places = builder.cast(positions(builder, index, shape_of(x)[axis]), "int64")
    return builder.cast(builder.emit(rx.scatter_elements(x, places, source, axis, reduction)), dtype)


@converts("scatter.src")
def scatter(builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, source: relax.Expr) -> relax.Expr:
    """x with elements replaced."""
    return scattered(builder, x, dim, index, source)


@converts("scatter.value")
def scatter_value(builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, value: Operand) -> relax.Expr:
    """x with elements replaced by a number."""
    source = builder.broadcast(builder.as_tensor(value, dtype_of(x)), shape_of(index))
    return scattered(builder, x, dim, index, source)


@converts("scatter.reduce", "scatter.value_reduce")
def scatter_reduced(
    builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, source: Operand, reduce: str
) -> relax.Expr:
    """x with elements added to, or multiplied."""
    if not isinstance(source, relax.Expr):
        source = builder.broadcast(builder.number(source, dtype_of(x)), shape_of(index))
    return scattered(builder, x, dim, index, source, REDUCTIONS[reduce])


@converts("scatter_add")
def scatter_add(builder: Builder, x: relax.Expr, dim: int, index: relax.Expr, source: relax.Expr) -> relax.Expr:
    """x with the source's elements added."""
    return scattered(builder, x, dim, index, source, "add")


@converts("scatter_reduce.two")
def scatter_reduce(
    builder: Builder,
    x: relax.Expr,
    dim: int,
    index: relax.Expr,
    source: relax.Expr,
    reduce: str,
    include_self: bool,
) -> relax.Expr:
    """x with sums, products, means or extremes of the source's elements that go to the same place."""
    dtype = dtype_of(x)
    if not include_self or reduce == "mean":
        ones = builder.broadcast(builder.number(1, "float32"), shape_of(index))
        zeros = builder.broadcast(builder.number(0, "float32"), shape_of(x))
        hits = scattered(builder, zeros, dim, index, ones, "add")
        untouched = builder.emit(rx.equal(hits, builder.number(0, "float32")))
    start = x if include_self else builder.emit(rx.where(untouched, x, neutral(builder, reduce, dtype, shape_of(x))))
    made = scattered(builder, start, dim, index, source, REDUCTIONS["sum" if reduce == "mean" else reduce])
    if reduce != "mean":
        return made
    count = builder.emit(rx.add(hits, builder.number(1, "float32"))) if include_self else hits
    count = builder.emit(rx.maximum(count, builder.number(1, "float32")))
    if "float" in dtype:
        return builder.emit(rx.divide(made, builder.cast(count, dtype)))
    return builder.emit(rx.floor_divide(made, builder.cast(count, dtype)))


def neutral(builder: Builder, reduce: str, dtype: str, shape: Sequence[int]) -> relax.Expr:
    """What a reduction starts from where a tensor's own elements do not count."""
    kind = getattr(torch, dtype)
    if dtype == "bool":
        value = reduce in ("amin", "prod")
    elif reduce in ("amax", "amin"):
        bounds = torch.finfo(kind) if kind.is_floating_point else torch.iinfo(kind)
        infinite = float("-inf") if reduce == "amax" else float("inf")
        value = infinite if kind.is_floating_point else bounds.min if reduce == "amax" else bounds.max
    else:
        value = 1 if reduce == "prod" else 0
    return builder.broadcast(builder.number(value, dtype), shape)


@converts("index_put", "_unsafe_index_put")
def index_put(
    builder: Builder,
    x: relax.Expr,
    indices: Sequence[relax.Expr | None],
    values: relax.Expr,
    accumulate: bool,
    *_: Any,
) -> relax.Expr:
    """x with x[indices] replaced by the values, or these added to it."""
    if any(index is not None and dtype_of(index) == "bool" for index in indices):
        return masked_put(builder, x, indices, values, accumulate)
    shape = shape_of(x)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    # The axes that are indexed go to the front and become one, along which rows are scattered.
    order = [*axes, *rest]
    moved = builder.emit(rx.permute_dims(x, order)) if order != list(range(len(shape))) else x
    extents, tail = [shape[axis] for axis in axes], [shape[axis] for axis in rest]
    common = list(torch.broadcast_shapes(*(shape_of(indices[axis]) for axis in axes)))
    flat = linear_positions(builder, [indices[axis] for axis in axes], extents, common)
    neighbours = axes == list(range(axes[0], axes[-1] + 1))
    values = builder.broadcast(
        values, [*shape[: axes[0]], *common, *shape[axes[-1] + 1 :]] if neighbours else [*common, *tail]
    )
    if neighbours and axes[0]:
        first, width = axes[0], len(common)
        back = [*range(first, first + width), *range(first), *range(first + width, len(shape_of(values)))]
        values = builder.emit(rx.permute_dims(values, back))
    count, width = torch.Size(common).numel(), torch.Size(tail).numel()
    rows = builder.reshape(moved, [torch.Size(extents).numel(), width])
    places = builder.broadcast(builder.reshape(flat, [count, 1]), [count, width])
    made = scattered(
        builder, rows, 0, places, builder.reshape(values, [count, width]), "add" if accumulate else "update"
    )
    made = builder.reshape(made, [*extents, *tail])
    if order == list(range(len(shape))):
        return made
    return builder.emit(rx.permute_dims(made, [order.index(axis) for axis in range(len(shape))]))


def linear_positions(
    builder: Builder, indices: Sequence[relax.Expr], extents: Sequence[int], common: Sequence[int]
) -> relax.Expr:
    """Positions along several axes as positions along one that joins them, int32, of shape `common`."""
    flat = None
    for index, extent in zip(indices, extents, strict=True):
        places = builder.broadcast(positions(builder, index, extent), common)
        if flat is not None:
            flat = builder.emit(rx.multiply(flat, builder.number(extent, "int32")))
            places = builder.emit(rx.add(flat, places))
        flat = places
    assert flat is not None
    return flat


def masked_put(
    builder: Builder, x: relax.Expr, indices: Sequence[relax.Expr | None], values: relax.Expr, accumulate: bool
) -> relax.Expr:
    """x[mask] = number; a mask over the first axes."""
    mask, *others = indices
    if mask is None or any(each is not None for each in others) or prod(shape_of(values)) != 1 or accumulate:
        raise NotImplementedError("it replaces by a mask, and how many depends on values")
    mask = builder.reshape(mask, [*shape_of(mask), *[1] * (len(shape_of(x)) - len(shape_of(mask)))])
    return builder.emit(rx.where(mask, builder.reshape(builder.cast(values, dtype_of(x)), []), x))
