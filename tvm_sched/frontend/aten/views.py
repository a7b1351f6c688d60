"""Operators that move numbers about: reshapes, permutations, slices, joins, padding."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from tvm import relax, te, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, converts
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


@converts("view.default", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "view_copy.default")
def reshape(builder: Builder, x: relax.Expr, *_: Any) -> relax.Expr:
    """The same numbers in the result's shape."""
    return builder.reshape(x, builder.shape)


@converts("view.dtype")
def reinterpret(builder: Builder, x: relax.Expr, _dtype: Any) -> relax.Expr:
    """The same bits as another dtype of the same width."""
    if builder.shape != list(shape_of(x)):
        raise NotImplementedError("bits are read as numbers of another width")
    dtype = builder.dtype
    return builder.pointwise(lambda a: tirx.reinterpret(dtype, a), x, name="reinterpret")


@converts("permute", "transpose", "t")
def permute(builder: Builder, x: relax.Expr, *axes: Any) -> relax.Expr:
    """Axes in another order."""
    rank = len(shape_of(x))
    order = list(range(rank))
    if len(axes) == 2:  # transpose
        one, other = (axis % rank for axis in axes)
        order[one], order[other] = other, one
    elif axes:
        order = [axis % rank for axis in axes[0]]
    else:
        order.reverse()
    return builder.emit(rx.permute_dims(x, order)) if order != list(range(rank)) else x


@converts("expand")
def expand(builder: Builder, x: relax.Expr, *_: Any) -> relax.Expr:
    """Broadcast to the result's shape."""
    return builder.broadcast(x, builder.shape)


@converts("repeat")
def repeat(builder: Builder, x: relax.Expr, repeats: Sequence[int]) -> relax.Expr:
    """The tensor so often along each axis."""
    return builder.emit(rx.tile(x, list(repeats)))


def bounded(index: int | None, extent: int, default: int) -> int:
    """An end of a slice as Python takes it, from 0 to the extent."""
    if index is None:
        return default
    return min(max(index + extent if index < 0 else index, 0), extent)


def sliced(builder: Builder, x: relax.Expr, axis: int, start: int, end: int, step: int = 1) -> relax.Expr:
    """x[start:end:step] along an axis; bounds within the extent."""
    if (start, end, step) == (0, shape_of(x)[axis], 1):
        return x
    return builder.emit(rx.strided_slice(x, axes=[axis], begin=[start], end=[max(start, end)], strides=[step]))


@converts("slice.Tensor")
def slice_(builder: Builder, x: relax.Expr, dim: int, start: int | None, end: int | None, step: int) -> relax.Expr:
    """x[start:end:step] along an axis."""
    axis = dim % len(shape_of(x))
    extent = shape_of(x)[axis]
    return sliced(builder, x, axis, bounded(start, extent, 0), bounded(end, extent, extent), step)


@converts("select.int")
def select(builder: Builder, x: relax.Expr, dim: int, index: int) -> relax.Expr:
    """x[index] along an axis, which goes."""
    axis = dim % len(shape_of(x))
    at = index % shape_of(x)[axis]
    return builder.reshape(sliced(builder, x, axis, at, at + 1), builder.shape)


@converts("split_with_sizes", "split.Tensor", "unbind", "chunk", "split_with_sizes_copy")
def split(builder: Builder, x: relax.Expr, *arguments: Any) -> tuple[relax.Expr, ...]:
    """Pieces along an axis."""
    dim = arguments[-1] if arguments else 0
    axis, start, pieces = dim % len(shape_of(x)), 0, []
    for meta in builder.meta:
        width = 1 if meta.ndim < len(shape_of(x)) else meta.shape[axis]
        pieces.append(builder.reshape(sliced(builder, x, axis, start, start + width), meta.shape))
        start += width
    return tuple(pieces)


@converts("cat")
def cat(builder: Builder, tensors: Sequence[relax.Expr], dim: int) -> relax.Expr:
    """One behind the other along an axis; what is empty of rank 1 counts for nothing."""
    rank = len(builder.shape)
    parts = [
        builder.cast(each, builder.dtype) for each in tensors if prod(shape_of(each)) or len(shape_of(each)) == rank
    ]
    parts = [each for each in parts if len(shape_of(each)) == rank and shape_of(each)[dim % rank]]
    if not parts:
        return builder.broadcast(builder.number(0, builder.dtype), builder.shape)
    return builder.emit(rx.concat(parts, dim % rank)) if len(parts) > 1 else parts[0]


@converts("flip")
def flip(builder: Builder, x: relax.Expr, dims: Sequence[int]) -> relax.Expr:
    """Backwards along axes."""
    rank = len(shape_of(x))
    return flipped(builder, x, sorted({dim % rank for dim in dims} if rank else ()))


def flipped(builder: Builder, x: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    """x backwards along these axes."""
    for axis in axes:
        x = builder.emit(rx.flip(x, axis)) if shape_of(x)[axis] > 1 else x
    return x


@converts("constant_pad_nd")
def constant_pad(builder: Builder, x: relax.Expr, pad: Sequence[int], value: float) -> relax.Expr:
    """A margin of one number; negative widths cut off. `pad`: before and after, the last axis first."""
    rank = len(shape_of(x))
    widths = [[0, 0] for _ in range(rank)]
    for i in range(len(pad) // 2):
        widths[rank - 1 - i] = list(pad[2 * i : 2 * i + 2])
    for axis, (before, after) in enumerate(widths):
        x = sliced(builder, x, axis, max(-before, 0), shape_of(x)[axis] - max(-after, 0))
    flat = [max(width, 0) for both in widths for width in both]
    if not any(flat):
        return x
    if dtype_of(x) in ("float32", "float64") and all(shape_of(x)):
        return builder.emit(rx.nn.pad(x, flat, "constant", value))
    return padded_by_choice(builder, x, flat, value)


def padded_by_choice(builder: Builder, x: relax.Expr, flat: Sequence[int], value: float) -> relax.Expr:
    """The same for every dtype."""
    shape, dtype = shape_of(x), dtype_of(x)
    wide = [extent + flat[2 * i] + flat[2 * i + 1] for i, extent in enumerate(shape)]
    if not all(shape):
        return builder.broadcast(builder.number(value, dtype), wide)

    def padded(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            inner = [at - flat[2 * i] for i, at in enumerate(position)]
            within = [
                condition
                for i, at in enumerate(inner)
                if flat[2 * i] or flat[2 * i + 1]
                for condition in (at >= 0, at < shape[i])
            ]
            return tirx.if_then_else(tirx.all(*within), source(*inner), tirx.const(value, dtype))

        return te.compute(wide, element, name="pad")

    return builder.te(padded, x)


@converts("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(builder: Builder, x: relax.Expr, padding: Sequence[int]) -> relax.Expr:
    """A margin that mirrors the inside, the edge itself not repeated."""

    def mirrored(at: Any, extent: int) -> Any:
        at = tirx.if_then_else(at < 0, -at, at)
        return tirx.if_then_else(at >= extent, 2 * (extent - 1) - at, at)

    return padded_from_inside(builder, x, padding, mirrored)


@converts("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(builder: Builder, x: relax.Expr, padding: Sequence[int]) -> relax.Expr:
    """A margin that repeats the edge."""
    return padded_from_inside(
        builder, x, padding, lambda at, extent: tirx.max(tirx.min(at, tirx.const(extent - 1, at.ty.dtype)), 0)
    )


def padded_from_inside(builder: Builder, x: relax.Expr, padding: Sequence[int], inside: Any) -> relax.Expr:
    """A margin of numbers that stand at `inside(position, extent)`."""
    shape = shape_of(x)
    before = [0] * len(shape)
    for i in range(len(padding) // 2):
        before[len(shape) - 1 - i] = padding[2 * i]
    spatial = range(len(shape) - len(padding) // 2, len(shape))
    wide = builder.shape

    def padded(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            return source(*(inside(at - before[i], shape[i]) if i in spatial else at for i, at in enumerate(position)))

        return te.compute(wide, element, name="pad_from_inside")

    return builder.te(padded, x)


@converts("as_strided", "as_strided_copy")
def as_strided(
    builder: Builder, x: relax.Expr, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> relax.Expr:
    """Numbers by their place in memory, which must hold x row by row."""
    meta: torch.Tensor = builder.node.args[0].meta["val"]  # type: ignore[union-attr]
    if not meta.is_contiguous() or meta.storage_offset():
        raise NotImplementedError("it reads memory that is not laid out row by row")
    flat, first = builder.reshape(x, [prod(shape_of(x))]), storage_offset or 0

    def strided(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            return source(first + sum((at * step for at, step in zip(position, stride, strict=True)), 0))

        return te.compute(list(size), element, name="as_strided")

    return builder.te(strided, flat)


@converts("diagonal")
def diagonal(builder: Builder, x: relax.Expr, offset: int, dim1: int, dim2: int) -> relax.Expr:
    """The diagonal of two axes, as a last axis of its own."""
    rank = len(shape_of(x))
    dim1, dim2 = dim1 % rank, dim2 % rank
    wide = builder.shape

    def along(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            rest, i = list(position[:-1]), position[-1]
            for axis, at in sorted([(dim1, i + max(-offset, 0)), (dim2, i + max(offset, 0))], key=lambda each: each[0]):
                rest.insert(axis, at)
            return source(*rest)

        return te.compute(wide, element, name="diagonal")

    return builder.te(along, x)


@converts("diagonal_scatter")
def diagonal_scatter(
    builder: Builder, x: relax.Expr, source: relax.Expr, offset: int, dim1: int, dim2: int
) -> relax.Expr:
    """x with the diagonal of two axes replaced."""
    shape, rank = shape_of(x), len(shape_of(x))
    dim1, dim2 = dim1 % rank, dim2 % rank
    count = shape_of(source)[-1]

    def replaced(old: te.Tensor, new: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            row, column = position[dim1], position[dim2]
            rest = [at for axis, at in enumerate(position) if axis not in (dim1, dim2)]
            place = tirx.max(tirx.min(row - max(-offset, 0), count - 1), 0)
            return tirx.if_then_else(column - row == offset, new(*rest, place), old(*position))

        return te.compute(shape, element, name="diagonal_scatter")

    return builder.te(replaced, x, builder.cast(source, dtype_of(x))) if count else x


@converts("unfold")
def unfold(builder: Builder, x: relax.Expr, dimension: int, size: int, step: int) -> relax.Expr:
    """Windows along an axis, each as a last axis of its own."""
    axis, wide = dimension % len(shape_of(x)) if shape_of(x) else 0, builder.shape
    if not shape_of(x):
        return builder.reshape(x, wide)

    def windows(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            return source(*position[:axis], position[axis] * step + position[-1], *position[axis + 1 : -1])

        return te.compute(wide, element, name="unfold")

    return builder.te(windows, x)


@converts("select_scatter")
def select_scatter(builder: Builder, x: relax.Expr, source: relax.Expr, dim: int, index: int) -> relax.Expr:
    """x with one slice along an axis replaced."""
    shape = list(shape_of(x))
    axis = dim % len(shape)
    at = index % shape[axis]
    return placed(builder, x, builder.reshape(source, [*shape[:axis], 1, *shape[axis + 1 :]]), axis, at, at + 1, 1)


@converts("slice_scatter")
def slice_scatter(
    builder: Builder, x: relax.Expr, source: relax.Expr, dim: int, start: int | None, end: int | None, step: int
) -> relax.Expr:
    """x with x[start:end:step] along an axis replaced."""
    axis = dim % len(shape_of(x))
    extent = shape_of(x)[axis]
    return placed(builder, x, source, axis, bounded(start, extent, 0), bounded(end, extent, extent), step)


def placed(builder: Builder, x: relax.Expr, part: relax.Expr, axis: int, start: int, end: int, step: int) -> relax.Expr:
    """x with `part` over x[start:end:step] along an axis."""
    part = builder.cast(part, dtype_of(x))
    if step == 1:
        pieces = [sliced(builder, x, axis, 0, start), part, sliced(builder, x, axis, end, shape_of(x)[axis])]
        pieces = [each for each in pieces if shape_of(each)[axis]]
        return builder.emit(rx.concat(pieces, axis)) if len(pieces) > 1 else pieces[0]

    def replaced(old: te.Tensor, new: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            at = position[axis]
            chosen = tirx.all(at >= start, at < end, tirx.floormod(at - start, step) == 0)
            inner = [*position[:axis], tirx.floordiv(at - start, step), *position[axis + 1 :]]
            return tirx.if_then_else(chosen, new(*inner), old(*position))

        return te.compute(old.shape, element, name="slice_scatter")

    return builder.te(replaced, x, part)


@converts("fill_diagonal")
def fill_diagonal(builder: Builder, x: relax.Expr, value: Operand, wrap: bool) -> relax.Expr:
    """The number along the main diagonal of a matrix."""
    if len(shape_of(x)) != 2 or wrap:
        raise NotImplementedError("a diagonal that wraps, or of more than two axes")
    number = builder.as_tensor(value, dtype_of(x))
    eye = builder.constant(torch.eye(*shape_of(x), dtype=torch.bool))
    return builder.emit(rx.where(eye, number, x))
