"""Narrows 32-bit integers to 8 bits by the instructions that saturate: of a clipped vector of 64, LLVM makes twice as
many.

    clip(x) in 16 bits, then in 8     of x = x0 x1 x2 x3, 16 numbers each
    pack x0 x1, x2 x3                 16 bits: in each 128-bit lane four of the one, then four of the other
    pack these two                    8 bits: in lane l the numbers 4 l ... 4 l + 3 of x0, x1, x2, x3
    permute fours                     in order

What the last pack clips to is a byte's own range; narrower limits are left to do before.
"""

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.target.codegen import target_has_features
from tvm.tirx import PrimFunc, Shuffle

BYTES, WORDS, PARTS = 64, 32, 4
LANES, FOURS = 4, 4  # 128-bit lanes of a vector; numbers of a dword in 8 bits
PACK_WORDS = "llvm.x86.avx512.packssdw.512"
PACK_BYTES = {"uint8": "llvm.x86.avx512.packuswb.512", "int8": "llvm.x86.avx512.packsswb.512"}
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
INT16 = (-(1 << 15), (1 << 15) - 1)


def narrow_bytes(func: PrimFunc) -> PrimFunc:
    """The function with such vectors packed, for a target that can. To run on vectorised loops."""
    target = (func.attrs or {}).get("target") or Target.current()
    if not target_has_features("avx512bw", target):
        return func
    return tvm_ffi.structural_map(func, (tirx.Cast, packed))


def packed(cast: tirx.Cast) -> Expr:
    """clip(cast(clip(x) to int16)) to 8 bits, of 64 numbers; any other cast as it is."""
    dtype = str(cast.ty.dtype).partition("x")[0]
    if dtype not in PACK_BYTES or cast.ty.dtype.lanes != BYTES:
        return cast
    words, limits = clipped(cast.value)
    if not isinstance(words, tirx.Cast) or str(words.ty.dtype) != f"int16x{BYTES}":
        return cast
    whole, wide = clipped(words.value)
    if wide != INT16 or limits is None:
        return cast
    if limits != RANGES[dtype]:
        low, high = (tirx.Broadcast(tirx.const(limit, "int32"), BYTES) for limit in limits)
        whole = tirx.Min(tirx.Max(whole, low), high)
    size = BYTES // PARTS
    parts = [Shuffle([whole], list(range(first, first + size))) for first in range(0, BYTES, size)]
    pairs = [call(f"int16x{WORDS}", PACK_WORDS, *parts[i : i + 2]) for i in (0, 2)]
    fours = [LANES * part + lane for part in range(PARTS) for lane in range(LANES)]  # as they are wanted
    places = [part + PARTS * lane for part, lane in (divmod(four, LANES) for four in fours)]
    order = [FOURS * place + number for place in places for number in range(FOURS)]
    return Shuffle([call(f"{dtype}x{BYTES}", PACK_BYTES[dtype], *pairs)], order)


def call(dtype: str, name: str, *args: Expr) -> Expr:
    """An intrinsic of LLVM's."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def clipped(value: Expr) -> tuple[Expr, tuple[int, int] | None]:
    """(x, limits) of min(max(x, low), high); the value itself and None where it is of another form."""
    if not isinstance(value, tirx.Min) or not isinstance(value.a, tirx.Max):
        return value, None
    limits = [constant(bound) for bound in (value.a.b, value.b)]
    return (value, None) if None in limits else (value.a.a, (limits[0], limits[1]))


def constant(vector: Expr) -> int | None:
    """The number that all elements of a vector are, where it is known."""
    number = vector.value if isinstance(vector, tirx.Broadcast) else vector
    return int(number.value) if isinstance(number, tirx.IntImm) else None
