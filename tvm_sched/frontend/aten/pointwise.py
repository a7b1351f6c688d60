"""Arithmetic of elements, with PyTorch's type promotion.

Where Relax has the operator it is taken, since the passes that follow know it; where its lowering differs from PyTorch
the elements are computed here.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from tvm import relax, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, Promotion, converts
from tvm_sched.passes.graph.relax_tools import dtype_of

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "bool")
FLOATS = Promotion.INT_TO_FLOAT
BOOLEAN = Promotion.ALWAYS_BOOL


def emitted(
    builder: Builder, make: Callable[..., relax.Expr], *operands: Operand, kind: Promotion = Promotion.DEFAULT
) -> relax.Expr:
    """`make` of the promoted operands, cast to the result's dtype."""
    exprs, result = builder.promote(*operands, kind=kind)
    return builder.cast(builder.emit(make(*exprs)), result)


def computed(
    builder: Builder, element: Callable[..., Any], *operands: Operand, kind: Promotion = Promotion.DEFAULT
) -> relax.Expr:
    """The same of a function of elements."""
    exprs, result = builder.promote(*operands, kind=kind)
    return builder.cast(builder.pointwise(element, *exprs, name=builder.node.name), result)


def libm(name: str) -> Callable[..., Any]:
    """A function of C's mathematics library, of elements of float32 or float64."""

    def call(*elements: Any) -> Any:
        dtype = str(elements[0].ty.dtype)
        return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *elements)

    return call


# Of one operand.

UNARY: dict[str, tuple[Callable[..., relax.Expr], Promotion]] = {
    "abs": (rx.abs, Promotion.COMPLEX_TO_FLOAT),
    "neg": (rx.negative, Promotion.DEFAULT),
    "exp": (rx.exp, FLOATS),
    "log": (rx.log, FLOATS),
    "sqrt": (rx.sqrt, FLOATS),
    "rsqrt": (rx.rsqrt, FLOATS),
    "sigmoid": (rx.sigmoid, FLOATS),
    "tanh": (rx.tanh, FLOATS),
    "erf": (rx.erf, FLOATS),
    "sin": (rx.sin, FLOATS),
    "cos": (rx.cos, FLOATS),
    "relu": (rx.nn.relu, Promotion.DEFAULT),
    "silu": (rx.nn.silu, Promotion.DEFAULT),
}
LIBM = (  # called alike by ATen and C
    *("tan", "sinh", "cosh", "asinh", "acosh", "atanh", "expm1", "log1p", "log2", "log10"),
    *("asin", "acos", "atan", "erfc", "exp2", "lgamma"),
)
ROUNDING = {"floor": rx.floor, "ceil": rx.ceil, "trunc": rx.trunc}


def _unary(name: str, make: Callable[..., relax.Expr], kind: Promotion) -> None:
    converts(f"{name}.default")(lambda builder, x: emitted(builder, make, x, kind=kind))


for _name, (_make, _kind) in UNARY.items():
    _unary(_name, _make, _kind)
for _name in LIBM:
    converts(_name)(lambda builder, x, _name=_name: computed(builder, libm(_name), x, kind=FLOATS))
for _name, _make in ROUNDING.items():
    converts(f"{_name}.default")(
        lambda builder, x, _make=_make: x if dtype_of(x) in INTEGERS else emitted(builder, _make, x)
    )


@converts("round.default")
def round_(builder: Builder, x: relax.Expr) -> relax.Expr:
    """To the nearest, halves to even."""
    return x if dtype_of(x) in INTEGERS else computed(builder, tirx.nearbyint, x)


@converts("round.decimals")
def round_decimals(builder: Builder, x: relax.Expr, decimals: int) -> relax.Expr:
    """To so many decimal places; below 0 to tens, hundreds."""
    if dtype_of(x) in INTEGERS and decimals >= 0:
        return x

    def element(a: Any) -> Any:
        ten = tirx.const(10.0 ** abs(decimals), a.ty.dtype)
        return tirx.nearbyint(a * ten) / ten if decimals > 0 else tirx.nearbyint(a / ten) * ten

    return computed(builder, element, x)


@converts("reciprocal")
def reciprocal(builder: Builder, x: relax.Expr) -> relax.Expr:
    """1 / x."""
    (x,), result = builder.promote(x, kind=FLOATS)
    return builder.cast(builder.emit(rx.divide(builder.number(1, dtype_of(x)), x)), result)


@converts("sign.default", "sgn.default")
def sign(builder: Builder, x: relax.Expr) -> relax.Expr:
    """-1, 0 or 1; booleans as they are."""
    if dtype_of(x) == "bool":
        return x

    def element(a: Any) -> Any:
        dtype = a.ty.dtype
        one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
        below = zero if dtype == "uint8" else tirx.Select(a < zero, tirx.const(-1, dtype), zero)
        return tirx.Select(a > zero, one, below)

    return computed(builder, element, x)


@converts("isinf")
def isinf(builder: Builder, x: relax.Expr) -> relax.Expr:
    """|x| is infinite."""
    if dtype_of(x) in INTEGERS:
        return builder.broadcast(builder.number(False, "bool"), builder.shape)
    return computed(builder, lambda a: tirx.abs(a) == tirx.const(inf, a.ty.dtype), x, kind=BOOLEAN)


@converts("signbit")
def signbit(builder: Builder, x: relax.Expr) -> relax.Expr:
    """Whether x is negative, -0.0 included."""
    if dtype_of(x) in INTEGERS:
        return emitted(builder, rx.less, x, 0, kind=BOOLEAN)
    return computed(
        builder, lambda a: tirx.copysign(tirx.const(1, a.ty.dtype), a) < tirx.const(0, a.ty.dtype), x, kind=BOOLEAN
    )


# Of two operands.


@converts("add")
def add(builder: Builder, x: Operand, y: Operand, alpha: float = 1) -> relax.Expr:
    """x + alpha y."""
    if dtype_of(x) == "bool" and builder.dtype == "bool":
        return emitted(builder, rx.logical_or, x, y)
    return emitted(builder, lambda a, b: rx.add(a, scaled(builder, b, alpha)), x, in_result(builder, y))


@converts("sub")
def sub(builder: Builder, x: Operand, y: Operand, alpha: float = 1) -> relax.Expr:
    """x - alpha y."""
    return emitted(builder, lambda a, b: rx.subtract(a, scaled(builder, b, alpha)), x, in_result(builder, y))


def in_result(builder: Builder, y: Operand) -> Operand:
    """A number as the result's dtype has it, which PyTorch's sums of half precision take; its products do not."""
    if isinstance(y, relax.Expr) or not builder.meta.is_floating_point():
        return y
    return torch.tensor(y, dtype=builder.meta.dtype).item()


def scaled(builder: Builder, x: relax.Expr, factor: float) -> relax.Expr:
    """factor x."""
    return x if factor == 1 else builder.emit(rx.multiply(x, builder.number(factor, dtype_of(x))))


@converts("mul")
def mul(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x y; of booleans x and y."""
    if isinstance(y, int | float) and y == 0 and "float" in dtype_of(x):
        return emitted(builder, lambda a: rx.subtract(a, a), x)  # TVM takes x 0 for 0, whatever x is
    return emitted(builder, rx.logical_and if builder.dtype == "bool" else rx.multiply, x, y)


@converts("div.Tensor", "div.Scalar")
def div(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x / y, integers as fractions."""
    return emitted(builder, rx.divide, x, y, kind=FLOATS)


@converts("div.Tensor_mode", "div.Scalar_mode")
def div_mode(builder: Builder, x: Operand, y: Operand, rounding_mode: str | None) -> relax.Expr:
    """x / y, rounded towards 0 ('trunc') or down ('floor')."""
    if rounding_mode is None:
        return div(builder, x, y)
    return computed(builder, quotient_down if rounding_mode == "floor" else quotient_cut, x, y)


@converts("floor_divide")
def floor_divide(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x / y, rounded down."""
    return computed(builder, quotient_down, x, y)


def is_integer(element: Any) -> bool:
    return str(element.ty.dtype) in INTEGERS


def whole(divide: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """A division of integers that stops no process where PyTorch raises an error, at 0, nor at -1, by which the least
    integer has no quotient.
    """
    dtype = a.ty.dtype
    zero, one = tirx.const(0, dtype), tirx.const(1, dtype)
    if str(dtype).startswith("u"):
        return divide(a, tirx.Select(b == zero, one, b))
    minus = b == tirx.const(-1, dtype)
    by_minus = zero - a if divide in (tirx.truncdiv, tirx.floordiv) else zero
    return tirx.Select(minus, by_minus, divide(a, tirx.Select(tirx.any(b == zero, minus), one, b)))


def opposite(rest: Any, b: Any) -> Any:
    """Whether a rest that is not 0 has another sign than the divisor."""
    zero = tirx.const(0, b.ty.dtype)
    return tirx.any(tirx.all(rest > zero, b < zero), tirx.all(rest < zero, b >= zero))


def quotient_cut(a: Any, b: Any) -> Any:
    """a / b towards 0."""
    return whole(tirx.truncdiv, a, b) if is_integer(a) else tirx.trunc(a / b)


def quotient_down(a: Any, b: Any) -> Any:
    """a / b down, of floating numbers from the exact remainder, as c10::div_floor_floating does."""
    if is_integer(a):
        return whole(tirx.floordiv, a, b)
    dtype = a.ty.dtype
    zero, one, half = (tirx.const(value, dtype) for value in (0, 1, 0.5))
    rest = libm("fmod")(a, b)
    ratio = (a - rest) / b
    down = tirx.Select(opposite(rest, b), ratio - one, ratio)
    nearest = tirx.floor(down)
    nearest = tirx.Select(down - nearest > half, nearest + one, nearest)
    return tirx.Select(b == zero, a / b, tirx.Select(down == zero, tirx.copysign(zero, a / b), nearest))


@converts("fmod")
def fmod(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """The rest of x / y with the sign of x."""
    return computed(builder, lambda a, b: whole(tirx.truncmod, a, b) if is_integer(a) else libm("fmod")(a, b), x, y)


@converts("remainder")
def remainder(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """The rest of x / y with the sign of y."""

    def element(a: Any, b: Any) -> Any:
        if is_integer(a):
            return whole(tirx.floormod, a, b)
        rest = libm("fmod")(a, b)
        return tirx.Select(opposite(rest, b), rest + b, rest)

    return computed(builder, element, x, y)


@converts("pow")
def pow_(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """x^y; whole powers of whole numbers are exact, modulo the dtype's range."""
    (a, b), result = builder.promote(x, y, kind=Promotion.BOOL_TO_LONG)
    if dtype_of(a) in INTEGERS:
        return builder.cast(builder.pointwise(whole_power, a, b, name="power"), result)
    if y == 0.5:
        return builder.cast(builder.emit(rx.sqrt(a)), result)
    if y == 1:
        return builder.cast(a, result)
    return builder.cast(builder.emit(rx.power(a, b)), result)


def whole_power(base: Any, exponent: Any) -> Any:
    """By squaring, over the bits of the exponent; of a negative one the reciprocal, cut to a whole number, which is 0
    but for 1 and -1.
    """
    dtype = base.ty.dtype
    zero, one = tirx.const(0, dtype), tirx.const(1, dtype)
    result, square = one, base
    for bit in range(6 if "8" not in str(dtype) else 3):
        taken = tirx.bitwise_and(exponent, tirx.const(1 << bit, dtype)) != zero
        result = result * tirx.Select(taken, square, one)
        square = square * square
    if str(dtype).startswith("u"):
        return result
    odd = tirx.bitwise_and(exponent, one) != zero
    of_minus = tirx.Select(base == -one, tirx.Select(odd, -one, one), zero)
    return tirx.Select(exponent < zero, tirx.Select(base == one, one, of_minus), result)


def _binary(names: tuple[str, ...], make: Callable[..., relax.Expr], kind: Promotion) -> None:
    converts(*names)(lambda builder, x, y: emitted(builder, make, x, y, kind=kind))


def larger(x: relax.Expr, y: relax.Expr) -> relax.Expr:
    """The larger of two elements, of booleans x or y."""
    return rx.logical_or(x, y) if dtype_of(x) == "bool" else rx.maximum(x, y)


def smaller(x: relax.Expr, y: relax.Expr) -> relax.Expr:
    """The smaller of two elements, of booleans x and y."""
    return rx.logical_and(x, y) if dtype_of(x) == "bool" else rx.minimum(x, y)


_binary(("maximum",), larger, Promotion.DEFAULT)
_binary(("minimum",), smaller, Promotion.DEFAULT)


def _number_of_two(name: str, make: Callable[..., relax.Expr], wins: Callable[[Any, Any], Any]) -> None:
    """Enters the larger or the smaller of two elements, a number where the other is none."""

    def element(a: Any, b: Any) -> Any:
        return tirx.Select(tirx.any(tirx.isnan(b), wins(a, b)), a, b)

    def convert(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
        return emitted(builder, make, x, y) if builder.dtype == "bool" else computed(builder, element, x, y)

    converts(name)(convert)


_number_of_two("fmax", larger, lambda a, b: a >= b)
_number_of_two("fmin", smaller, lambda a, b: a <= b)


@converts("atan2")
def atan2(builder: Builder, y: Operand, x: Operand) -> relax.Expr:
    """The angle of the point (x, y)."""
    return computed(builder, libm("atan2"), y, x, kind=FLOATS)


@converts("hypot")
def hypot(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """sqrt(x^2 + y^2)."""
    return computed(builder, libm("hypot"), x, y)


@converts("copysign")
def copysign(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """|x| with the sign of y."""
    return computed(builder, libm("copysign"), x, y, kind=FLOATS)


@converts("nextafter")
def nextafter(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
    """The next number after x towards y."""
    return computed(builder, libm("nextafter"), x, y)
