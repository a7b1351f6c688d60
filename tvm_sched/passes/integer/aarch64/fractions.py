"""Fractions of bytes by putting these in their places: LLVM widens a vector of them in four steps, then converts it.

as_float(b0 00 00 4B) - (2^23 + 128) = float(b) for b0 = b + 128, unsigned
"""

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Shuffle

HIGH_HALF = 0x4B00  # of 2^23 in float32
BEGUN = float((1 << 23) + 128)


def fraction(cast: tirx.Cast) -> Expr:
    """A vector of int8 in float32, by interleaving; any other cast as it is."""
    value, lanes = cast.value, int(cast.ty.dtype.lanes)
    if lanes % 4 or not str(cast.ty.dtype).startswith("float32x") or not str(value.ty.dtype).startswith("int8x"):
        return cast
    unsigned = tirx.reinterpret(f"uint8x{lanes}", value) + tirx.Broadcast(tirx.const(128, "uint8"), lanes)
    low = tirx.reinterpret(f"uint16x{lanes}", in_turn(unsigned, 0, "uint8", lanes))
    words = in_turn(low, HIGH_HALF, "uint16", lanes)
    return tirx.reinterpret(cast.ty.dtype, words) - tirx.Broadcast(tirx.const(BEGUN, "float32"), lanes)


def in_turn(numbers: Expr, other: int, dtype: str, lanes: int) -> Expr:
    """The numbers, behind each of which comes a constant."""
    constants = tirx.Broadcast(tirx.const(other, dtype), lanes)
    return Shuffle([numbers, constants], [place for i in range(lanes) for place in (i, lanes + i)])
