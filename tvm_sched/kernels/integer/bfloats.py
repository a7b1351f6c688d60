"""Numbers of bfloat16 as their bits, in whole numbers of 16 bits: TVM computes its own type in float32, and cuts the
low bits off where it stores it.
"""

import numpy as np
from tvm import tirx
from tvm.ir import Expr

BITS = "uint16"
HIGH, ROUND, QUIET = 16, 0x7FFF, 0x7FC0  # where the bits lie in a float32's; half a step less one; a NaN's


def of_lanes(value: Expr, dtype: str) -> str:
    """The type with as many lanes as the value."""
    lanes = int(value.ty.dtype.lanes)
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def to_float(bits: Expr) -> Expr:
    """The float32 of these bits."""
    wide = bits.astype(of_lanes(bits, "uint32"))
    return tirx.reinterpret(of_lanes(bits, "float32"), wide << tirx.const(HIGH, wide.ty.dtype))


def to_bits(value: Expr) -> Expr:
    """The nearest number's bits, the even one's of two; of NaN one's."""
    bits = tirx.reinterpret(of_lanes(value, "uint32"), value)

    def number(value: int) -> Expr:
        return tirx.const(value, bits.ty.dtype)

    rounded = (bits + number(ROUND) + ((bits >> number(HIGH)) & number(1))) >> number(HIGH)
    return tirx.Select(value != value, number(QUIET), rounded).astype(of_lanes(value, BITS))


def bits_of(array: np.ndarray) -> np.ndarray:
    """`to_bits` of an array."""
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    rounded = (bits + np.uint32(ROUND) + ((bits >> HIGH) & 1)) >> HIGH
    return np.where(np.isnan(array), QUIET, rounded).astype(BITS)


def floats_of(bits: np.ndarray) -> np.ndarray:
    """`to_float` of an array."""
    return (bits.astype("uint32") << HIGH).view("float32")
