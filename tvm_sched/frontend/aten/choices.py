"""Elementwise operators that choose, bound or cast, activations among them, and tensors of one number."""

from typing import Any

from tvm import relax, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, Promotion, converts
from tvm_sched.frontend.aten.pointwise import computed, emitted, larger, smaller


@converts("where")
def where(builder: Builder, condition: relax.Expr, x: Operand, y: Operand) -> relax.Expr:
    """x where the condition holds, else y."""
    (x, y), result = builder.promote(x, y, kind=Promotion.NO_OPMATH)
    return builder.cast(builder.emit(rx.where(builder.cast(condition, "bool"), x, y)), result)


@converts("clamp.default", "hardtanh.default")
def clamp(builder: Builder, x: relax.Expr, least: float | None, most: float | None = None) -> relax.Expr:
    """min(max(x, least), most)."""
    dtype = builder.dtype
    x = builder.cast(x, dtype)
    if least is not None and most is not None and least <= most and dtype != "bool":
        return builder.emit(rx.clip(x, least, most))
    if least is not None:
        x = builder.emit(larger(x, builder.number(least, dtype)))
    return x if most is None else builder.emit(smaller(x, builder.number(most, dtype)))


@converts("clamp.Tensor")
def clamp_tensor(builder: Builder, x: relax.Expr, least: relax.Expr | None, most: relax.Expr | None) -> relax.Expr:
    """The same by tensors."""
    dtype = builder.dtype
    x = builder.broadcast(builder.cast(x, dtype), builder.shape)
    if least is not None:
        x = builder.emit(larger(x, builder.cast(least, dtype)))
    return x if most is None else builder.emit(smaller(x, builder.cast(most, dtype)))


@converts("leaky_relu")
def leaky_relu(builder: Builder, x: relax.Expr, negative_slope: float) -> relax.Expr:
    """x, or negative_slope x where x < 0."""
    return emitted(builder, lambda a: rx.nn.leakyrelu(a, negative_slope), x)


@converts("gelu")
def gelu(builder: Builder, x: relax.Expr, approximate: str) -> relax.Expr:
    """x times the normal distribution's integral to x, or its approximation by tanh."""
    return emitted(builder, rx.nn.gelu_tanh if approximate == "tanh" else rx.nn.gelu, x)


@converts("elu")
def elu(builder: Builder, x: relax.Expr, alpha: float, scale: float, input_scale: float) -> relax.Expr:
    """scale x, or scale alpha (exp(input_scale x) - 1) where x is not above 0."""

    def element(a: Any) -> Any:
        dtype = a.ty.dtype
        zero, one, below, above = (tirx.const(value, dtype) for value in (0, 1, alpha * scale, scale))
        negative = tirx.min(a, zero) * tirx.const(input_scale, dtype)
        return tirx.Select(a > zero, a * above, (tirx.exp(negative) - one) * below)

    return computed(builder, element, x)


# Casts and copies.


@converts("_to_copy", "clone", "alias", "detach", "contiguous", "lift_fresh_copy", "convert_element_type")
def copy(builder: Builder, x: relax.Expr, *_: Any) -> relax.Expr:
    """The same numbers in the result's dtype."""
    return builder.cast(x, builder.dtype)


@converts("copy.default")
def copy_from(builder: Builder, x: relax.Expr, source: relax.Expr, _non_blocking: bool) -> relax.Expr:
    """`source` in the shape and dtype of x."""
    return builder.broadcast(builder.cast(source, builder.dtype), builder.shape)


@converts("fill")
def fill(builder: Builder, _x: relax.Expr, value: Operand) -> relax.Expr:
    """The number, in the shape and dtype of x."""
    return builder.broadcast(builder.as_tensor(value, builder.dtype), builder.shape)


@converts("full_like", "zeros_like", "ones_like", "empty_like", "new_full", "new_zeros", "new_ones", "new_empty")
def full_like(builder: Builder, _x: relax.Expr, *arguments: Any) -> relax.Expr:
    """One number in a tensor's, or a given, shape; memory that is not set holds 0."""
    name = builder.node.target._schema.name
    values = {"full": lambda: arguments[1 if "new" in name else 0], "ones": lambda: 1}
    value = next((make() for key, make in values.items() if key in name), 0)
    return builder.broadcast(builder.number(value, builder.dtype), builder.shape)
