"""Arithmetic, comparisons, rounding and types: what each element becomes by itself."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from subp_contract.errors import UserError
from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator, scalar, unary
from tvm_sched.frontend.onnx.tensors import torch_dtype

unary(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "BitwiseNot": torch.bitwise_not,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Identity": lambda x: x,
        "IsNaN": torch.isnan,
        "Log": torch.log,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal,
        "Round": torch.round,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Sqrt": torch.sqrt,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
    }
)


def aligned(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """`y` as it broadcasts to `x`: before opset 7 its axes may begin at the axis that the node names."""
    axis = node["axis"]
    if node.version >= 7 or axis is None:
        return y
    return y.reshape(*y.shape, *[1] * (x.ndim - axis % x.ndim - y.ndim))


def binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Enters a function of two tensors that broadcast."""
    operator(name)(lambda node, x, y: function(x, aligned(node, x, y)))


def divided(x: Tensor, y: Tensor) -> Tensor:
    """x / y, of whole numbers towards zero."""
    return x / y if x.dtype.is_floating_point else torch.div(x, y, rounding_mode="trunc")


for _name, _function in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": divided,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}.items():
    binary(_name, _function)


def variadic(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Enters a function of any number of tensors that broadcast, taken one after another."""
    operator(name)(lambda node, *xs: reduce(function, xs))


variadic("Max", torch.maximum)
variadic("Min", torch.minimum)
variadic("Sum", torch.add)


@operator("Mean")
def mean(node: Node, *xs: Tensor) -> Tensor:
    """The mean of tensors that broadcast."""
    return reduce(torch.add, xs) / len(xs)


@operator("Pow", folded=(1,))
def power(node: Node, x: Tensor, exponent: Tensor | Numbers) -> Tensor:
    """x ** exponent in the type of x, whatever the exponent's."""
    if isinstance(exponent, list):
        exponent = torch.tensor(exponent)
    if isinstance(exponent, Tensor):
        exponent = aligned(node, x, exponent)
        return torch.pow(x, exponent).to(x.dtype)
    return torch.pow(x, exponent).to(x.dtype)


@operator("Mod")
def modulo(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """The remainder, with the sign of y, or with `fmod` that of x."""
    return torch.fmod(x, y) if node["fmod"] else torch.remainder(x, y)


@operator("BitShift")
def shift(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Bits moved by y places."""
    return torch.bitwise_left_shift(x, y) if node["direction"] == "LEFT" else torch.bitwise_right_shift(x, y)


@operator("Clip", folded=(1, 2))
def clip(node: Node, x: Tensor, low: Tensor | Numbers | None = None, high: Tensor | Numbers | None = None) -> Tensor:
    """x between two bounds: inputs from opset 11 on, attributes before."""
    if node.version < 11:
        low, high = node["min"], node["max"]
        limits = torch.finfo(x.dtype)
        low, high = None if low == limits.min else low, None if high == limits.max else high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = (
            value if isinstance(value, Tensor | None) else x.new_tensor(scalar(value)) for value in (low, high)
        )
    else:
        low, high = scalar(low), scalar(high)
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Where")
def where(node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the condition holds, else y."""
    return torch.where(condition, x, y)


@operator("IsInf")
def is_infinite(node: Node, x: Tensor) -> Tensor:
    """Which elements are infinite, of the signs asked for."""
    found = torch.isinf(x)
    if not node["detect_negative"]:
        found = found & (x > 0)
    return found if node["detect_positive"] else found & (x < 0)


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    """In another type; fractions of whole numbers are cut off."""
    return x.to(torch_dtype(node["to"]))


@operator("BitCast")
def bit_cast(node: Node, x: Tensor) -> Tensor:
    """The same bits, read as another type."""
    return x.view(torch_dtype(node["to"]))


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """In the type of another tensor."""
    return x.to(like.dtype)


@operator("Dropout", fixed=(1, 2))
def dropout(node: Node, x: Tensor, ratio: Numbers = None, training: Numbers = None) -> tuple[Tensor, Tensor]:
    """(x, nothing dropped), as at inference."""
    if training and scalar(ratio, 0.5):
        raise UserError("drops at random (training_mode): export the network for inference")
    mask = x if node.version < 7 else torch.ones_like(x, dtype=torch.bool)
    return x, mask if node.version >= 10 else torch.ones_like(x)
