"""Operators whose elements depend on those before them along an axis, or on their order: running sums, sorting."""

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import relax, te, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, converts
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


@converts("cumsum")
def cumsum(builder: Builder, x: relax.Expr, dim: int, _dtype: Any) -> relax.Expr:
    """The sums of all elements up to each along an axis."""
    return scanned(builder, x, dim, lambda a, b: a + b)


@converts("cumprod")
def cumprod(builder: Builder, x: relax.Expr, dim: int, _dtype: Any) -> relax.Expr:
    """The products likewise."""
    return scanned(builder, x, dim, lambda a, b: a * b)


def scanned(builder: Builder, x: relax.Expr, dim: int, combine: Callable[[Any, Any], Any]) -> relax.Expr:
    """Each element combined with all before it, in the result's dtype, by doubling: after step i an element holds the
    2^i before it, in ceil(log2(extent)) passes that are elementwise.
    """
    dtype = builder.dtype
    shape = shape_of(x)
    x = builder.cast(x, "float32" if dtype in ("float16", "bfloat16") else dtype)
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
    numbers = builder.cast(x, "int32") if dtype in ("bool", "uint8", "int8", "int16") else x
    numbers = builder.cast(numbers, "float32") if dtype in ("float16", "bfloat16") else numbers
    both = builder.emit(
        rx.topk(numbers, shape[axis] if most is None else most, axis, "both", largest=descending, dtype="int64")
    )
    values, places = (builder.emit(relax.TupleGetItem(both, i)) for i in range(2))
    return builder.cast(values, dtype), places
