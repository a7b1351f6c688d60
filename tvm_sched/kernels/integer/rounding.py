"""Sums of integers as 8-bit integers: one multiply-add, rounded half to even, clipped."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tvm import te, tirx
from tvm.ir import Expr

ROUNDING = "subp.rounding"  # attribute of a function that only rounds a layer's sums
INT16 = (-(1 << 15), (1 << 15) - 1)
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}


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
        return narrow(number, self.limits, self.dtype)

    def whole(self, total: Expr, tensors: Sequence[te.Tensor], channel: Expr, residual: Expr | None = None) -> Expr:
        """The same in 32 bits, not clipped yet."""
        given = iter(tensors)
        *coefficients, value = (
            next(given)[channel] if number is None else tirx.const(number, "float32")
            for number in (*self.coefficients, self.bias)
        )
        terms = [total] if residual is None else [total, residual] if self.own == 0 else [residual, total]
        for term, coefficient in zip(terms, coefficients, strict=True):
            value = term.astype("float32") * coefficient + value
        return whole(value, self.limits, self.fits)


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


def narrow(number: Expr, limits: tuple[int, int], dtype: str) -> Expr:
    """Integers of 32 bits, clipped to `limits`, in 8: clipped to 16 bits first, as CPUs narrow with saturation."""

    def clipped(value: Expr, bounds: tuple[int, int]) -> Expr:
        low, high = (tirx.const(bound, value.ty.dtype) for bound in bounds)
        return tirx.min(tirx.max(value, low), high)

    def as_type(value: Expr, name: str) -> Expr:
        lanes = int(value.ty.dtype.lanes)
        return value.astype(f"{name}x{lanes}" if lanes > 1 else name)

    return as_type(clipped(as_type(clipped(number, INT16), "int16"), limits), dtype)


def narrowed(value: Expr) -> tuple[Expr, tuple[int, int], str] | None:
    """(number, limits, dtype) of what `narrow` gave; None for any other expression."""
    if not isinstance(value, tirx.Cast) or str(value.ty.dtype.with_lanes(1)) not in RANGES:
        return None
    words, limits = clipped_by(value.value)
    if not isinstance(words, tirx.Cast) or limits is None:
        return None
    number, wide = clipped_by(words.value)
    return (number, limits, str(value.ty.dtype.with_lanes(1))) if wide == INT16 else None


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
