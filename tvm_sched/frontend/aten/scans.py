"""Operators whose elements depend on those before them along an axis, or on their order: running sums, sorting."""

from collections.abc import Callable
from math import inf, log, prod
from typing import Any

import torch
from tvm import relax, te, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts
from tvm_sched.frontend.aten.indexing import gathered
from tvm_sched.frontend.aten.pointwise import libm
from tvm_sched.frontend.aten.views import sliced
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


@converts("cumsum")
def cumsum(builder: Builder, x: relax.Expr, dim: int, _dtype: Any) -> relax.Expr:
    """The sums of all elements up to each along an axis."""
    return scanned(builder, x, dim, lambda a, b: a + b)


@converts("cumprod")
def cumprod(builder: Builder, x: relax.Expr, dim: int, _dtype: Any) -> relax.Expr:
    """The products likewise."""
    return scanned(builder, x, dim, lambda a, b: a * b)


@converts("logcumsumexp")
def logcumsumexp(builder: Builder, x: relax.Expr, dim: int) -> relax.Expr:
    """The logarithms of the sums of the exponentials likewise."""

    def combine(a: Any, b: Any) -> Any:
        most, least = tirx.max(a, b), tirx.min(a, b)
        return tirx.Select(
            most == least, most + tirx.const(log(2), a.ty.dtype), most + libm("log1p")(tirx.exp(least - most))
        )

    return scanned(builder, x, dim, combine)


def scanned(builder: Builder, x: relax.Expr, dim: int, combine: Callable[[Any, Any], Any]) -> relax.Expr:
    """Each element combined with all before it, in the result's dtype, by doubling: after step i an element holds the
    2^i before it, in ceil(log2(extent)) passes that are elementwise.
    """
    dtype = builder.dtype
    shape = shape_of(x)
    x = builder.cast(x, computing(dtype))
    if not shape or not prod(shape):
        return builder.cast(x, dtype)
    axis, reach = dim % len(shape), 1
    while reach < shape[axis]:
        x = builder.te(shifted(axis, reach, combine), x, name="scan_step")
        reach *= 2
    return builder.cast(x, dtype)


def shifted(axis: int, reach: int, combine: Callable[[Any, Any], Any]) -> Callable[[te.Tensor], te.Tensor]:
    """x combined with what stands `reach` before."""

    def step(source: te.Tensor) -> te.Tensor:
        def element(*position: Any) -> Any:
            before = [*position[:axis], position[axis] - reach, *position[axis + 1 :]]
            return tirx.if_then_else(
                position[axis] >= reach, combine(source(*before), source(*position)), source(*position)
            )

        return te.compute(source.shape, element, name="scan_step")

    return step


@converts("cummax")
def cummax(builder: Builder, x: relax.Expr, dim: int) -> tuple[relax.Expr, relax.Expr]:
    """(the largest up to each element along an axis, where it last stood)."""
    return running_extreme(builder, x, dim, largest=True)


@converts("cummin")
def cummin(builder: Builder, x: relax.Expr, dim: int) -> tuple[relax.Expr, relax.Expr]:
    """(the smallest up to each element along an axis, where it last stood)."""
    return running_extreme(builder, x, dim, largest=False)


def running_extreme(builder: Builder, x: relax.Expr, dim: int, largest: bool) -> tuple[relax.Expr, relax.Expr]:
    """By doubling, as `scanned`, values and their places together."""
    shape, dtype = shape_of(x), dtype_of(x)
    if not shape or not prod(shape):
        return x, builder.broadcast(builder.number(0, "int64"), shape)
    axis, reach = dim % len(shape), 1
    values = builder.cast(x, "uint8") if dtype == "bool" else x
    places = torch.arange(shape[axis], dtype=torch.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    at = builder.broadcast(builder.constant(places), shape)
    while reach < shape[axis]:
        both = builder.te(extreme_step(axis, reach, largest), values, at, name="extreme_step")
        values, at = builder.fields(both, 2)
        reach *= 2
    return builder.cast(values, dtype), builder.cast(at, "int64")


def extreme_step(axis: int, reach: int, largest: bool) -> Callable[[te.Tensor, te.Tensor], list[te.Tensor]]:
    """(value, place) or that `reach` before where it is strictly better; not a number is better than any."""

    def step(values: te.Tensor, places: te.Tensor) -> list[te.Tensor]:
        def element(*position: Any) -> Any:
            before = [*position[:axis], tirx.max(position[axis] - reach, 0), *position[axis + 1 :]]
            old, new = values(*before), values(*position)
            better = (old > new) if largest else (old < new)
            if "float" in str(values.dtype):
                better = tirx.any(better, tirx.all(tirx.isnan(old), tirx.Not(tirx.isnan(new))))
            better = tirx.all(position[axis] >= reach, better)
            return tirx.Select(better, old, new), tirx.Select(better, places(*before), places(*position))

        return list(te.compute(values.shape, element, name="extreme_step"))

    return step


@converts("sort.default")
def sort(builder: Builder, x: relax.Expr, dim: int, descending: bool) -> tuple[relax.Expr, relax.Expr]:
    """(sorted along an axis, where each element stood)."""
    return ordered(builder, x, dim, descending, None)


@converts("sort.stable")
def sort_stable(
    builder: Builder, x: relax.Expr, _stable: bool, dim: int, descending: bool
) -> tuple[relax.Expr, relax.Expr]:
    """The same, equals in their order."""
    return ordered(builder, x, dim, descending, None)


@converts("topk")
def topk(
    builder: Builder, x: relax.Expr, k: int, dim: int, largest: bool, _sorted: bool
) -> tuple[relax.Expr, relax.Expr]:
    """(the k largest or smallest along an axis, sorted, where each stood)."""
    return ordered(builder, x, dim, largest, k)


def ordered(
    builder: Builder, x: relax.Expr, dim: int, descending: bool, most: int | None
) -> tuple[relax.Expr, relax.Expr]:
    """The first `most` of an axis in order, and their places in int64; stable. TVM's runtime sorts."""
    shape, dtype = shape_of(x), dtype_of(x)
    if not shape:
        return x, builder.number(0, "int64")
    axis = dim % len(shape)
    numbers = builder.cast(x, "int32" if dtype in ("bool", "uint8", "int8", "int16") else computing(dtype))
    if "float" in dtype:  # NaN stands above infinity, and that with the largest number
        numbers = builder.pointwise(
            lambda a: tirx.Select(tirx.isnan(a), tirx.const(inf, a.ty.dtype), tirx.min(a, tirx.max_value(a.ty.dtype))),
            numbers,
            name="order",
        )
    places = builder.emit(rx.argsort(numbers, axis, descending, "int32"))
    if most is not None:
        places = sliced(builder, places, axis, 0, most)
    return gathered(builder, x, axis, places), builder.cast(places, "int64")
