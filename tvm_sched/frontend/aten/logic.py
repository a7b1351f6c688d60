"""Comparisons of elements, NaN among them; logic and bits."""

from collections.abc import Callable
from typing import Any

import torch
from tvm import relax, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, converts
from tvm_sched.frontend.aten.pointwise import BOOLEAN, INTEGERS, computed, emitted
from tvm_sched.passes.graph.relax_tools import dtype_of


@converts("isnan")
def isnan(builder: Builder, x: relax.Expr) -> relax.Expr:
    """Whether x is NaN. As x != x TVM takes it for False."""
    if dtype_of(x) in INTEGERS:
        return builder.broadcast(builder.number(False, "bool"), builder.shape)
    return computed(builder, tirx.isnan, x, kind=BOOLEAN)


def _comparison(name: str, make: Callable[..., relax.Expr], alike: bool | None = None) -> None:
    """Enters a comparison; of booleans as of the numbers 0 and 1. `alike`: what a number gives beside itself, where NaN
    does not: TVM would not look.
    """

    def convert(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
        if alike is not None and isinstance(x, relax.Expr) and x.same_as(y):
            return builder.emit(rx.logical_not(isnan(builder, x))) if alike else isnan(builder, x)
        exprs, _ = builder.promote(x, y, kind=BOOLEAN)
        return builder.emit(
            make(*(builder.cast(each, "uint8") if dtype_of(each) == "bool" else each for each in exprs))
        )

    converts(name)(convert)


_comparison("eq", rx.equal, True)
_comparison("ne", rx.not_equal, False)
_comparison("lt", rx.less)
_comparison("le", rx.less_equal, True)
_comparison("gt", rx.greater)
_comparison("ge", rx.greater_equal, True)


@converts("bitwise_not")
def bitwise_not(builder: Builder, x: relax.Expr) -> relax.Expr:
    """Of booleans the negation."""
    return builder.emit(rx.logical_not(x) if dtype_of(x) == "bool" else rx.bitwise_not(x))


@converts("logical_not")
def logical_not(builder: Builder, x: relax.Expr) -> relax.Expr:
    """x == 0."""
    return builder.emit(rx.logical_not(builder.cast(x, "bool")))


for _name in ("and", "or", "xor"):

    def _logic(builder: Builder, x: relax.Expr, y: Operand, _name: str = _name) -> relax.Expr:
        left, right = builder.cast(x, "bool"), builder.cast(builder.as_tensor(y, builder.promote(x, y)[1]), "bool")
        if _name == "xor":
            return builder.emit(rx.not_equal(builder.cast(left, "uint8"), builder.cast(right, "uint8")))
        return builder.emit(getattr(rx, f"logical_{_name}")(left, right))

    def _bits(builder: Builder, x: Operand, y: Operand, _name: str = _name) -> relax.Expr:
        if builder.dtype == "bool":
            return _logic(builder, x, y, _name)
        return emitted(builder, getattr(rx, f"bitwise_{_name}"), x, y)

    converts(f"logical_{_name}")(_logic)
    converts(f"bitwise_{_name}", f"__{_name}__")(_bits)


@converts("bitwise_left_shift", "__lshift__")
def left_shift(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x << y; 0 where y is as wide as the dtype."""

    def element(a: Any, b: Any) -> Any:
        dtype = a.ty.dtype
        safe = tirx.all(b >= tirx.const(0, dtype), b < tirx.const(bits(dtype), dtype))
        return tirx.Select(safe, tirx.shift_left(a, tirx.Select(safe, b, tirx.const(0, dtype))), tirx.const(0, dtype))

    return computed(builder, element, x, y)


@converts("bitwise_right_shift", "__rshift__")
def right_shift(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x >> y, the sign kept."""

    def element(a: Any, b: Any) -> Any:
        dtype = a.ty.dtype
        most = tirx.const(bits(dtype) - 1, dtype)
        safe = tirx.all(b >= tirx.const(0, dtype), b < tirx.const(bits(dtype), dtype))
        return tirx.shift_right(a, tirx.Select(safe, b, most))

    return computed(builder, element, x, y)


def bits(dtype: Any) -> int:
    """Width of an integer dtype."""
    return torch.iinfo(getattr(torch, str(dtype))).bits
