"""Sums of integers as 8-bit integers: one multiply-add, rounded half to even, clipped.

Arm's cores convert four numbers in two cycles of one of their pipes, and add eight in one. So what is known to be small
is made a fraction and a whole number by additions, to the same bits: to the float32 numbers from 2^23 to 2^24 ones are
added in their last bits.

    M = 2^23 + 2^22       float(sum) = as_float(sum + bits(M)) - M        |sum| < 2^22
                          round(y)   = the low 16 bits of y + M           |y| < 2^15
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tvm import te, tirx
from tvm.ir import Expr

from tvm_sched.kernels.integer.bfloats import of_lanes

ROUNDING = "subp.rounding"  # attribute of a function that only rounds a layer's sums
INT16 = (-(1 << 15), (1 << 15) - 1)
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
ONES = 12582912.0  # M
ONES_BITS = 0x4B400000
SMALL_SUM, SMALL_RESULT = 1 << 22, (1 << 15) - 1


@dataclass(frozen=True)
class Rounding:
    """clip(round(coefficient * sum + bias)), or of two terms, a layer's sums and a residual: clip(round(c1 * t1 + (c0 *
    t0 + bias))). Coefficients and a bias that differ from channel to channel are tensors besides, in this order, and
    None here.
    """

    coefficients: tuple[float | None, ...]
    bias: float | None
    limits: tuple[int, int]
    dtype: str
    fits: bool  # whether what is rounded is known to fit 32 bits
    own: int = 0  # which term is the layer's sums
    small: bool = False  # whether sums and what is rounded are known to be, and additions are to convert them
    begun: bool = False  # whether sums are to begin with numbers of a third tensor (`begun_sums.py`)

    @property
    def attributes(self) -> dict:
        """As an attribute of a function."""
        return {ROUNDING: json.dumps(asdict(self))}

    @staticmethod
    def of(attributes) -> "Rounding | None":
        """What `attributes` wrote; None where there is none."""
        if ROUNDING not in (attributes or {}):
            return None
        values = json.loads(str(attributes[ROUNDING]))
        return Rounding(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    @property
    def adds(self) -> bool:
        """Whether there is a residual."""
        return len(self.coefficients) > 1

    def of_channel(
        self, total: Expr, tensors: Sequence[te.Tensor], channel: Expr, residual: Expr | None = None
    ) -> Expr:
        """A sum of that output channel, rounded, the residual added; the tensors are `[O]`."""
        return self.narrow(self.whole(total, tensors, channel, residual))

    def narrow(self, number: Expr) -> Expr:
        """What `whole` gave in 8 bits."""
        return narrow(number, self.limits, self.dtype, self.small)

    def whole(self, total: Expr, tensors: Sequence[te.Tensor], channel: Expr, residual: Expr | None = None) -> Expr:
        """The same in 32 bits, not clipped yet; of a small one the low 16 are the number."""
        if self.begun:
            coefficient, bias, ones = (tensor(channel) for tensor in tensors)
            return small_whole(tirx.reinterpret("float32", total + ones) * coefficient + bias)
        given = iter(tensors)
        *coefficients, value = (
            next(given)[channel] if number is None else tirx.const(number, "float32")
            for number in (*self.coefficients, self.bias)
        )
        terms = [total] if residual is None else [total, residual] if self.own == 0 else [residual, total]
        for term, coefficient in zip(terms, coefficients, strict=True):
            by_addition = self.small and str(term.ty.dtype) == "int32"
            value = (small_fraction(term) if by_addition else term.astype("float32")) * coefficient + value
        return small_whole(value) if self.small else whole(value, self.limits, self.fits)


def rounded(value: Expr, limits: tuple[int, int], dtype: str, fits: bool) -> Expr:
    """A float32 as an 8-bit integer."""
    return narrow(whole(value, limits, fits), limits, dtype)


def whole(value: Expr, limits: tuple[int, int], fits: bool) -> Expr:
    """A float32 as an integer of 32 bits; one that may not fit them is clipped to `limits` before."""
    if not fits:
        low, high = (tirx.const(float(limit), "float32") for limit in limits)
        value = tirx.min(tirx.max(value, low), high)
    # LLVM's rounding makes one instruction with the conversion; 'nearbyint' takes one of its own.
    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)


def small_fraction(number: Expr) -> Expr:
    """A small int32 in float32."""
    return tirx.reinterpret("float32", number + tirx.const(ONES_BITS, "int32")) - tirx.const(ONES, "float32")


def small_whole(value: Expr) -> Expr:
    """A small float32 as an integer, in the low 16 bits of an int32."""
    return tirx.reinterpret("int32", value + tirx.const(ONES, "float32"))


def narrow(number: Expr, limits: tuple[int, int], dtype: str, small: bool = False) -> Expr:
    """Integers of 32 bits, clipped to `limits`, in 8: clipped to 16 bits first, as CPUs narrow with saturation. Of
    `small` ones the low 16 bits, which are clipped to narrower limits in bytes, four vectors of sums at once.
    """
    if not small:
        return as_type(clipped(as_type(clipped(number, INT16), "int16"), limits), dtype)
    return narrow_words(as_type(number, "int16"), limits, dtype)


def narrow_words(words: Expr, limits: tuple[int, int], dtype: str) -> Expr:
    """Integers of 16 bits, clipped to `limits`, in 8."""
    least, most = RANGES[dtype]
    made = as_type(clipped(words, (least, most)), dtype)
    low, high = (tirx.const(limit, made.ty.dtype) for limit in limits)
    made = tirx.max(made, low) if limits[0] > least else made
    return tirx.min(made, high) if limits[1] < most else made


def clipped(value: Expr, bounds: tuple[int, int]) -> Expr:
    """Numbers within bounds."""
    low, high = (tirx.const(bound, value.ty.dtype) for bound in bounds)
    return tirx.min(tirx.max(value, low), high)


def as_type(value: Expr, name: str) -> Expr:
    """Numbers in another type."""
    return value.astype(of_lanes(value, name))


def narrowed(value: Expr) -> tuple[Expr, tuple[int, int], str, bool] | None:
    """(number, limits, dtype, small) of what `narrow` gave; None for any other expression."""
    dtype = str(value.ty.dtype.with_lanes(1))
    if dtype not in RANGES:
        return None
    value, (least, most) = clipped_in_bytes(value, RANGES[dtype])
    if not isinstance(value, tirx.Cast):
        return None
    words, limits = clipped_by(value.value)
    if not isinstance(words, tirx.Cast) or limits is None or str(words.ty.dtype.with_lanes(1)) != "int16":
        return None
    number, wide = clipped_by(words.value)
    if wide != INT16:
        return words.value, (max(least, limits[0]), min(most, limits[1])), dtype, True
    return (number, limits, dtype, False) if (least, most) == RANGES[dtype] else None


def clipped_in_bytes(value: Expr, limits: tuple[int, int]) -> tuple[Expr, tuple[int, int]]:
    """(x, narrower limits) of a number of 8 bits that was clipped at one end, at both, or not at all."""
    (low, high), bounded = limits, value
    if isinstance(bounded, tirx.Min) and (bound := constant(bounded.b)) is not None:
        bounded, high = bounded.a, bound
    if isinstance(bounded, tirx.Max) and (bound := constant(bounded.b)) is not None:
        bounded, low = bounded.a, bound
    return bounded, (low, high)


def clipped_by(value: Expr) -> tuple[Expr, tuple[int, int] | None]:
    """(x, limits) of min(max(x, low), high); the value itself and None where it is of another form."""
    if not isinstance(value, tirx.Min) or not isinstance(value.a, tirx.Max):
        return value, None
    limits = [constant(bound) for bound in (value.a.b, value.b)]
    return (value, None) if None in limits else (value.a.a, (limits[0], limits[1]))


def constant(vector: Expr) -> int | None:
    """The number that all elements of a vector are, where it is known."""
    number = vector.value if isinstance(vector, tirx.Broadcast) else vector
    return int(number.value) if isinstance(number, tirx.IntImm) else None
