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
    """clip(round(coefficient * sum + bias)). A coefficient and a bias that differ from channel to channel are tensors
    besides, in this order, and None here.
    """

    coefficient: float | None
    bias: float | None
    limits: tuple[int, int]
    dtype: str
    fits: bool  # whether what is rounded is known to fit 32 bits

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
        return Rounding(**values | {"limits": tuple(values["limits"])})

    def of_channel(self, total: Expr, tensors: Sequence[te.Tensor], channel: Expr) -> Expr:
        """A sum of that output channel, rounded; the tensors are `[O]`."""
        given = iter(tensors)
        coefficient, bias = (
            next(given)[channel] if number is None else tirx.const(number, "float32")
            for number in (self.coefficient, self.bias)
        )
        return rounded(total.astype("float32") * coefficient + bias, self.limits, self.dtype, self.fits)


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
