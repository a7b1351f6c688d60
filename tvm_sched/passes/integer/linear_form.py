"""A value of a quantised network, not yet computed: a sum of integer tensors with coefficients, clipped.

    value = clip(sum_i coefficient_i * tensor_i + bias, low, high)

A dequantised tensor is one, and so is an integer convolution's result, what additions and scalings make of these, and
a ReLU of it. Quantising one is again of this form: `requantize`, one rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np
from tvm import relax, te, tirx

from tvm_sched.kernels.integer.rounding import SMALL_RESULT, SMALL_SUM, Rounding, rounded
from tvm_sched.passes.graph.broadcasts_apart import ELEMENTWISE
from tvm_sched.passes.graph.relax_tools import constant, dtype_of

INT32 = 1 << 31
BYTE = 255  # the most that 8 bits hold
ARM_BYTE = "int8"  # type of activations where additions are faster than conversions


@dataclass(frozen=True, eq=False)
class Term:
    """A tensor, whose elements are at most `most` in magnitude, by a coefficient, float64, which broadcasts to it."""

    tensor: relax.Expr
    coefficient: np.ndarray
    most: float

    def times(self, factor: np.ndarray) -> "Term":
        """The product with constants."""
        return replace(self, coefficient=self.coefficient * factor)


@dataclass(frozen=True, eq=False)
class Linear:
    """The bias, float64, broadcasts to the value's shape."""

    terms: tuple[Term, ...]
    bias: np.ndarray
    low: float = -inf
    high: float = inf

    @property
    def clipped(self) -> bool:
        """Whether it may be more, or less, than its sum."""
        return (self.low, self.high) != (-inf, inf)

    def plus(self, other: "Linear") -> "Linear | None":
        """The sum; None where one is clipped first."""
        if self.clipped or other.clipped:
            return None
        return Linear(self.terms + other.terms, self.bias + other.bias)

    def times(self, factor: np.ndarray) -> "Linear | None":
        """The product with constants; None where it is clipped, unless it is with a positive number."""
        bounds = (-inf, inf)
        if self.clipped:
            if np.size(factor) > 1 or np.max(factor) <= 0:
                return None
            bounds = (self.low * float(np.max(factor)), self.high * float(np.max(factor)))
        return Linear(tuple(term.times(factor) for term in self.terms), self.bias * factor, *bounds)

    @property
    def most(self) -> float:
        """A bound of the sum's magnitude."""
        return sum(np.abs(term.coefficient).max() * term.most for term in self.terms) + np.abs(self.bias).max()

    def clip(self, low: float, high: float) -> "Linear":
        """Clipped, again."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


@dataclass(frozen=True, eq=False)
class Quantised:
    """8-bit integers that stand for scale * (tensor - zero_point)."""

    tensor: relax.Expr
    scale: float
    zero_point: int

    @property
    def linear(self) -> Linear:
        """The value that they stand for."""
        scale = np.float64(self.scale)
        return Linear((Term(self.tensor, scale, BYTE),), -scale * self.zero_point)


class Weight:
    """A dequantised constant: integers, a scale for each output channel or one for all, axis 0 being the output's."""

    def __init__(self, call: relax.Call, array: np.ndarray, scale: np.ndarray, transposed: bool = False):
        self.call, self.array, self.scale = call, array, scale
        self.transposed = transposed  # whether the network's value is the array's transpose

    @property
    def of_outputs(self) -> "Weight | None":
        """Of a matrix that the network multiplies by: its transpose, whose rows are the outputs'; None where scales are
        not theirs.
        """
        if self.array.ndim != 2 or (self.scale.size > 1 and not self.transposed):
            return None
        return self if self.transposed else Weight(self.call, self.array.T, self.scale, transposed=True)

    @property
    def rows(self) -> np.ndarray:
        """`[O, -1]`, int64: what is summed for each output."""
        return self.array.reshape(len(self.array), -1).astype("int64")

    @property
    def most(self) -> int:
        """A bound of its sums' magnitude."""
        return self.most_of("uint8")

    def most_of(self, dtype: str) -> int:
        """The same where it multiplies numbers of an 8-bit type."""
        limits = np.iinfo(dtype)
        return max(-limits.min, limits.max) * int(np.abs(self.rows).sum(axis=1).max(initial=0))


def quantised(value: Linear, dtype: str) -> Quantised | None:
    """The value as 8-bit integers that there are already, of one scale; None where it is not."""
    first, *others = value.terms
    tensor, scale = first.tensor, first.coefficient
    if others or value.clipped or np.ndim(scale) or np.ndim(value.bias) or dtype_of(tensor) != dtype or scale <= 0:
        return None
    zero_point = -value.bias / scale
    whole = round(float(zero_point))
    return Quantised(tensor, float(scale), whole) if abs(zero_point - whole) < 1e-4 else None


def integers(builder: relax.BlockBuilder, value: Linear, scale: float, zero_point: int, dtype: str) -> relax.Expr:
    """clip(round(value / scale + zero_point)) in an 8-bit type; where that is what the value is made of, no more than
    its clipping is left.
    """
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    low, high = (float(np.clip(np.rint(bound / scale + zero_point), least, most)) for bound in (value.low, value.high))
    same = quantised(replace(value, low=-inf, high=inf), dtype)
    if same and same.zero_point == zero_point and np.isclose(same.scale, scale, rtol=1e-6):
        if (low, high) == (least, most):
            return same.tensor
        return builder.emit(relax.op.clip(same.tensor, int(low), int(high)))
    scaled = replace(value, low=-inf, high=inf).times(np.float64(1 / scale))
    scaled = replace(scaled, bias=scaled.bias + zero_point)
    options = {"limits": (int(low), int(high)), "dtype": dtype, "fits": bool(scaled.most < INT32)}
    sums = [term.most for term in value.terms if dtype_of(term.tensor) == "int32"]
    small = dtype == ARM_BYTE and max(sums, default=0) < SMALL_SUM and bool(scaled.most < SMALL_RESULT)
    attributes = None
    if len(scaled.terms) <= 2:  # a kernel may do it itself
        *coefficients, bias = (
            float(np.asarray(each).item()) if np.size(each) == 1 else None
            for each in (*(term.coefficient for term in scaled.terms), scaled.bias)
        )
        attributes = Rounding(tuple(coefficients), bias, **options, small=small).attributes
    return emit(builder, requantize, scaled, attributes, **options)


def fractions(builder: relax.BlockBuilder, value: Linear) -> relax.Expr:
    """The value in float32."""
    return emit(builder, dequantize, value, limits=(value.low, value.high))


@dataclass(frozen=True)
class Operands:
    """A sum's numbers in order, None where one is several, then the constants that these are, and its tensors."""

    numbers: list[float | None]
    given: list[relax.Expr]
    tensors: list[relax.Expr]

    @staticmethod
    def of(value: Linear) -> "Operands":
        """Of a sum."""
        arrays = [*(term.coefficient for term in value.terms), value.bias]
        return Operands(
            [float(np.asarray(array).item()) if np.size(array) == 1 else None for array in arrays],
            [constant(np.asarray(array, "float32")) for array in arrays if np.size(array) > 1],
            [term.tensor for term in value.terms],
        )


def emit(builder: relax.BlockBuilder, compute, value: Linear, attributes: dict | None = None, **options) -> relax.Expr:
    """A call of `compute` on the terms, and on what they are multiplied with where that is no single number."""
    each = Operands.of(value)
    made = partial(compute, numbers=each.numbers, **options)
    return emitted(builder, compute.__name__, made, [*each.tensors, *each.given], attributes)


def emitted(
    builder: relax.BlockBuilder, name: str, compute: Callable, args: list[relax.Expr], attributes: dict | None = None
) -> relax.Expr:
    """A call of a compute of single elements, as a function of that name."""
    # TVM would call it a broadcast, of constants, and fuse none with what gives another type.
    attrs = {"op_pattern": ELEMENTWISE, **(attributes or {})}
    return builder.emit(builder.call_te(compute, *args, primfunc_name_hint=name, primfunc_attrs=attrs))


def total(
    tensors: Sequence[te.Tensor], numbers: list[float | None], position: tuple, extents: Sequence[int] | None = None
) -> relax.Expr:
    """The sum at a position, in float32: one multiply-add a term. `extents`: of the result, where that is larger."""
    terms, extents = tensors[: len(numbers) - 1], extents or shape(tensors)
    arrays = iter(tensors[len(terms) :])

    def at(tensor: te.Tensor) -> relax.Expr:
        rank = len(tensor.shape)
        axes = zip(position[-rank:], tensor.shape, extents[-rank:], strict=True) if rank else ()
        return tensor(*(i if int(own) == extent else 0 for i, own, extent in axes))

    values = [at(next(arrays)) if number is None else tirx.const(number, "float32") for number in numbers]
    *coefficients, result = values
    for tensor, coefficient in zip(terms, coefficients, strict=True):
        result = at(tensor).astype("float32") * coefficient + result
    return result


def shape(tensors: Sequence[te.Tensor]) -> list:
    """That of the sum."""
    rank = max(len(tensor.shape) for tensor in tensors)
    shapes = [(1,) * (rank - len(tensor.shape)) + tuple(map(int, tensor.shape)) for tensor in tensors]
    return list(np.broadcast_shapes(*shapes))


def requantize(
    *tensors: te.Tensor,
    numbers: list,
    limits: tuple[int, int],
    dtype: str,
    fits: bool,
    curve: Callable[[relax.Expr], relax.Expr] | None = None,
) -> te.Tensor:
    """round(sum), or of a curve of the sum, clipped, in an 8-bit type."""

    def element(*position):
        value = total(tensors, numbers, position)
        return rounded(curve(value) if curve else value, limits, dtype, fits)

    return te.compute(shape(tensors), element, name="requantize")


def dequantize(*tensors: te.Tensor, numbers: list, limits: tuple[float, float]) -> te.Tensor:
    """The sum, clipped."""
    return te.compute(
        shape(tensors), lambda *position: clipped(total(tensors, numbers, position), *limits), name="dequantize"
    )


def clipped(value: relax.Expr, low: float, high: float) -> relax.Expr:
    """A float32 number between two bounds, either of which may be infinite."""
    value = tirx.max(value, tirx.const(low, "float32")) if low > -inf else value
    return tirx.min(value, tirx.const(high, "float32")) if high < inf else value
