"""Sums, means, extremes and their positions, over axes."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from tvm import relax, te, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts, metas
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


def axes_of(x: relax.Expr, dim: Any) -> list[int]:
    """The axes that an argument names: none or an empty list stands for all."""
    rank = len(shape_of(x))
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else dim
    return [axis % rank for axis in dims] if rank else []


def reduced(builder: Builder, make: Callable[..., relax.Expr], x: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    """`make(x, axes, keepdims)` in the result's shape; a single number is its own."""
    if not shape_of(x):
        x, axes = builder.reshape(x, [1]), [0]
    keep = len(builder.shape) == len(shape_of(x))
    return builder.reshape(builder.emit(make(x, list(axes), keep)), builder.shape)


def accumulated(builder: Builder, make: Callable[..., relax.Expr], x: relax.Expr, dim: Any) -> relax.Expr:
    """The same in the result's dtype, half-precision numbers summed in float32."""
    dtype = builder.dtype
    if not prod(shape_of(x)):
        return builder.broadcast(builder.number(1 if make is rx.prod else 0, dtype), builder.shape)
    x = builder.cast(x, computing(dtype))
    return builder.cast(reduced(builder, make, x, axes_of(x, dim)), dtype)


@converts("sum.dim_IntList", "sum.default", "nansum")
def sum_(builder: Builder, x: relax.Expr, *arguments: Any) -> relax.Expr:
    """The sum over axes."""
    return accumulated(builder, rx.sum, x, arguments[0] if len(arguments) > 1 else None)


@converts("mean.dim", "mean.default")
def mean(builder: Builder, x: relax.Expr, *arguments: Any) -> relax.Expr:
    """The mean over axes."""
    if not prod(shape_of(x)):
        return builder.broadcast(builder.number(float("nan"), builder.dtype), builder.shape)
    return accumulated(builder, rx.mean, x, arguments[0] if len(arguments) > 1 else None)


@converts("prod.default", "prod.dim_int")
def prod_(builder: Builder, x: relax.Expr, *arguments: Any) -> relax.Expr:
    """The product over an axis, or of all."""
    return accumulated(builder, rx.prod, x, arguments[0] if len(arguments) > 1 else None)


def extreme(builder: Builder, x: relax.Expr, dim: Any, largest: bool) -> relax.Expr:
    """The largest or smallest over axes; booleans as numbers."""
    if dtype_of(x) == "bool":
        found = reduced(builder, rx.max if largest else rx.min, builder.cast(x, "uint8"), axes_of(x, dim))
        return builder.cast(found, "bool")
    return reduced(builder, rx.max if largest else rx.min, x, axes_of(x, dim))


@converts("amax", "max.default")
def amax(builder: Builder, x: relax.Expr, dim: Any = None, _keepdim: bool = False) -> relax.Expr:
    """The largest over axes."""
    return extreme(builder, x, dim, largest=True)


@converts("amin", "min.default")
def amin(builder: Builder, x: relax.Expr, dim: Any = None, _keepdim: bool = False) -> relax.Expr:
    """The smallest over axes."""
    return extreme(builder, x, dim, largest=False)


@converts("any")
def any_(builder: Builder, x: relax.Expr, dim: Any = None, _keepdim: bool = False) -> relax.Expr:
    """Whether one is not 0."""
    return truth(builder, x, dim, rx.max)


@converts("all")
def all_(builder: Builder, x: relax.Expr, dim: Any = None, _keepdim: bool = False) -> relax.Expr:
    """Whether none is 0."""
    return truth(builder, x, dim, rx.min)


def truth(builder: Builder, x: relax.Expr, dim: Any, make: Callable[..., relax.Expr]) -> relax.Expr:
    """Booleans as the numbers 0 and 1."""
    if not prod(shape_of(x)):
        return builder.cast(builder.broadcast(builder.number(make is rx.min, "bool"), builder.shape), builder.dtype)
    numbers = builder.cast(builder.cast(x, "bool"), "uint8")
    return builder.cast(builder.cast(reduced(builder, make, numbers, axes_of(x, dim)), "bool"), builder.dtype)


@converts("argmax")
def argmax(builder: Builder, x: relax.Expr, dim: int | None, _keepdim: bool) -> relax.Expr:
    """Where the largest stands along an axis, or of all; the first of equals."""
    return position(builder, x, dim, largest=True)


@converts("argmin")
def argmin(builder: Builder, x: relax.Expr, dim: int | None, _keepdim: bool) -> relax.Expr:
    """Where the smallest stands."""
    return position(builder, x, dim, largest=False)


def position(builder: Builder, x: relax.Expr, dim: int | None, largest: bool) -> relax.Expr:
    """The first place of an extreme, int64."""
    if dtype_of(x) == "bool":
        x = builder.cast(x, "uint8")
    if dim is None or not shape_of(x):
        x, dim = builder.reshape(x, [prod(shape_of(x))]), 0
    axis = dim % len(shape_of(x))
    _, places = best(builder, x, axis, largest)
    return builder.reshape(places, builder.shape)


@converts("max.dim")
def max_dim(builder: Builder, x: relax.Expr, dim: int, _keepdim: bool) -> tuple[relax.Expr, relax.Expr]:
    """(the largest along an axis, where it stands)."""
    return extreme_and_position(builder, x, dim, largest=True)


@converts("min.dim")
def min_dim(builder: Builder, x: relax.Expr, dim: int, _keepdim: bool) -> tuple[relax.Expr, relax.Expr]:
    """(the smallest along an axis, where it stands)."""
    return extreme_and_position(builder, x, dim, largest=False)


def extreme_and_position(builder: Builder, x: relax.Expr, dim: int, largest: bool) -> tuple[relax.Expr, relax.Expr]:
    shape, dtype = list(builder.meta[0].shape), dtype_of(x)
    if not shape_of(x):
        return x, builder.number(0, "int64")
    numbers = builder.cast(x, "uint8") if dtype == "bool" else x
    values, places = best(builder, numbers, dim % len(shape_of(x)), largest)
    return builder.cast(builder.reshape(values, shape), dtype), builder.reshape(places, shape)


def best(builder: Builder, x: relax.Expr, axis: int, largest: bool) -> tuple[relax.Expr, relax.Expr]:
    """(the extreme along an axis, its first place in int64), both without that axis. Places are counted in int32."""
    shape = shape_of(x)
    extent = shape[axis]
    kept = [*shape[:axis], *shape[axis + 1 :]]

    def found(source: te.Tensor) -> list[te.Tensor]:
        reducer = tirx.comm_reducer(
            lambda one, other: ahead(one, other, largest),
            lambda dtype, _place: (worst(dtype, largest), tirx.const(extent, "int32")),
            name="best",
        )
        k = te.reduce_axis((0, extent), name="k")

        def element(*where: Any) -> Any:
            return reducer((source(*where[:axis], k, *where[axis:]), k.var.astype("int32")), axis=k)

        return te.compute(kept, element, name="best")

    both = builder.te(found, x, name="best")
    values, places = builder.fields(both, 2)
    return values, builder.cast(places, "int64")


def ahead(one: Any, other: Any, largest: bool) -> tuple[Any, Any]:
    """The better of two (value, place) pairs, the earlier of equals; not a number is better than any."""
    (a, i), (b, j) = one, other
    beats = (a > b) if largest else (a < b)
    first = tirx.any(beats, tirx.all(a == b, i < j))
    if "float" in str(a.ty.dtype):
        first = tirx.any(first, tirx.all(tirx.isnan(a), tirx.any(tirx.Not(tirx.isnan(b)), i < j)))
        first = tirx.all(first, tirx.any(tirx.Not(tirx.isnan(b)), tirx.isnan(a)))
    return tirx.Select(first, a, b), tirx.Select(first, i, j)


def worst(dtype: Any, largest: bool) -> Any:
    """What every number is at least as good as."""
    name = str(dtype)
    if "float" in name:
        return tirx.const(float("-inf") if largest else float("inf"), dtype)
    bounds = torch.iinfo(getattr(torch, name))
    return tirx.const(bounds.min if largest else bounds.max, dtype)


@converts("var.correction", "var.dim")
def var(builder: Builder, x: relax.Expr, dim: Any, *arguments: Any) -> relax.Expr:
    """The variance over axes: squares from the mean over their number less `correction`."""
    correction = arguments[0] if builder.node.target._overloadname == "correction" else int(arguments[0])
    return variance(builder, x, dim, 1 if correction is None else correction)[0]


@converts("var_mean.correction")
def var_mean(
    builder: Builder, x: relax.Expr, dim: Any, correction: float | None, _keepdim: bool
) -> tuple[relax.Expr, relax.Expr]:
    """(the variance, the mean) over axes."""
    made, middle = variance(builder, x, dim, 1 if correction is None else correction)
    return made, builder.reshape(middle, shape_of(made))


def variance(builder: Builder, x: relax.Expr, dim: Any, correction: float) -> tuple[relax.Expr, relax.Expr]:
    """(variance in the result's shape, mean with axes kept), by two passes."""
    meta = metas(builder.meta)[0]
    dtype = dtype_of(x)
    if not shape_of(x):
        x, dim = builder.reshape(x, [1]), [0]
    x = builder.cast(x, computing(dtype))
    axes = axes_of(x, dim)
    if not prod(shape_of(x)):
        nothing = builder.broadcast(builder.number(float("nan"), dtype), meta.shape)
        return nothing, nothing
    count = prod(shape_of(x)[axis] for axis in axes)
    middle, squares = moments(builder, x, axes)
    divisor = max(count - correction, 0)
    share = builder.number(1 / divisor if divisor else float("inf"), dtype_of(x))
    made = builder.emit(rx.multiply(squares, share))
    return builder.cast(builder.reshape(made, meta.shape), dtype), builder.cast(middle, dtype)


def moments(builder: Builder, x: relax.Expr, axes: list[int]) -> tuple[relax.Expr, relax.Expr]:
    """(the mean, the sum of squares from it) over axes, which are kept."""
    middle = builder.emit(rx.mean(x, axes, keepdims=True))
    off = builder.emit(rx.subtract(x, middle))
    return middle, builder.emit(rx.sum(builder.emit(rx.multiply(off, off)), axes, keepdims=True))
