"""Sums of integers as 8-bit integers: one multiply-add, rounded half to even, clipped."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tvm import te, tirx
from tvm.ir import Expr

ROUNDING = "subp.rounding"  # attribute of a function that only rounds a layer's sums
INT16 = (-(1 << 15), (1 << 15) - 1)


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
        given = iter(tensors)
        *coefficients, value = (
            next(given)[channel] if number is None else tirx.const(number, "float32")
            for number in (*self.coefficients, self.bias)
        )
        terms = [total] if residual is None else [total, residual] if self.own == 0 else [residual, total]
        for term, coefficient in zip(terms, coefficients, strict=True):
            value = term.astype("float32") * coefficient + value
        return rounded(value, self.limits, self.dtype, self.fits)


def rounded(value: Expr, limits: tuple[int, int], dtype: str, fits: bool) -> Expr:
    """A float32 as an 8-bit integer. It is clipped to 16 bits first: CPUs narrow so, with saturation. A value that may
    not fit 32 bits is clipped before it is rounded, too.
    """
    if not fits:
        low, high = (tirx.const(float(limit), "float32") for limit in limits)
        value = tirx.min(tirx.max(value, low), high)
    # LLVM's rounding makes one instruction with the conversion; 'nearbyint' takes one of its own.
    whole = tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)
    narrow = tirx.min(tirx.max(whole, INT16[0]), INT16[1]).astype("int16")
    low, high = (tirx.const(limit, "int16") for limit in limits)
    return tirx.min(tirx.max(narrow, low), high).astype(dtype)
