"""Narrows 32-bit integers to 8 bits by the instructions that saturate: of a clipped vector of 64, LLVM makes twice as
many.

    clip(x) in 16 bits, then in 8     of x = x0 x1 x2 x3, 16 numbers each
    pack x0 x1, x2 x3                 16 bits: in each 128-bit lane four of the one, then four of the other
    pack these two                    8 bits: in lane l the numbers 4 l ... 4 l + 3 of x0, x1, x2, x3
    permute fours                     in order

What the last pack clips to is a byte's own range; narrower limits are left to do before. Four vectors of 16 that go to
different places, one after the other, are packed together too.

AArch64 narrows with saturation as LLVM has it, of four vectors together (`aarch64/`), but rounds and converts
in one instruction (`fcvtns`), of which LLVM makes two of its slowest.
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.target.codegen import llvm_lookup_intrinsic_id, target_has_features
from tvm.tirx import PrimFunc, Shuffle

from tvm_sched.kernels.integer.rounding import RANGES, narrowed
from tvm_sched.passes.integer.aarch64.fractions import fraction
from tvm_sched.passes.integer.aarch64.narrow_together import FOURS, binds, gathered, narrowed_together

BYTES, WORDS, PARTS = 64, 32, 4
LANES = 4  # 128-bit lanes of a vector
INTRINSIC, ROUND, CONVERT = "tirx.call_llvm_pure_intrin", "llvm.lrint", "llvm.aarch64.neon.fcvtns"
PACK_WORDS = "llvm.x86.avx512.packssdw.512"
PACK_BYTES = {"uint8": "llvm.x86.avx512.packuswb.512", "int8": "llvm.x86.avx512.packsswb.512"}


def narrow_bytes(func: PrimFunc) -> PrimFunc:
    """The function with such vectors packed, for a target that can. To run on vectorised loops."""
    target = (func.attrs or {}).get("target") or Target.current()
    if is_aarch64(target):
        rewrites = [(ir.Call, converted), (tirx.Cast, fraction), (tirx.SeqStmt, narrowed_together)]
        return tvm_ffi.structural_map(func, rewrites)
    if not packs(target):
        return func
    return tvm_ffi.structural_map(func, [(tirx.Cast, packed), (tirx.SeqStmt, stored_together)])


def is_aarch64(target: Target) -> bool:
    """Whether code is made for a 64-bit Arm CPU, whose vectors have 128 bits."""
    return str(target.attrs.get("mtriple", "")).startswith("aarch64")


def converted(rounding: ir.Call) -> Expr:
    """`llvm.lrint` of whole vectors by `fcvtns`, each of four numbers; any other call as it is."""
    if getattr(rounding.op, "name", "") != INTRINSIC or int(rounding.args[0]) != llvm_lookup_intrinsic_id(ROUND):
        return rounding
    lanes, value = int(rounding.ty.dtype.lanes), rounding.args[1]
    if lanes % FOURS:
        return rounding
    fours = [list(range(first, first + FOURS)) for first in range(0, lanes, FOURS)]
    parts = [call(f"int32x{FOURS}", CONVERT, value if len(fours) == 1 else Shuffle([value], four)) for four in fours]
    return parts[0] if len(parts) == 1 else Shuffle(parts, list(range(lanes)))


def stored_together(sequence: tirx.SeqStmt) -> tirx.Stmt:
    """The statements, in which stores of 16 narrowed numbers are packed four at a time."""
    return gathered(sequence, is_quarter, four_at_once, most=PARTS)


def is_quarter(statement: tirx.Stmt) -> bool:
    """Whether a statement stores a quarter of a vector of narrowed numbers."""
    if not isinstance(statement, tirx.BufferStore) or int(statement.value.ty.dtype.lanes) != BYTES // PARTS:
        return False
    found = saturating(statement.value)
    return found is not None and not binds(found[0])


def saturating(value: Expr) -> tuple[Expr, tuple[int, int], str] | None:
    """(number, limits, dtype) of what was narrowed and may need to be clipped to 16 bits; None of anything else."""
    found = narrowed(value)
    return None if found is None or found[-1] else found[:-1]


def four_at_once(stores: list[tirx.BufferStore]) -> list:
    """Statements for four stores; fewer stay as they are."""
    if len(stores) < PARTS:
        return stores
    found = [saturating(store.value) for store in stores]
    _, limits, dtype = found[0]
    together = tirx.Var("narrowed", f"{dtype}x{BYTES}")
    bind = tirx.Bind(together, saturated([whole for whole, *_ in found], limits, dtype))
    size = BYTES // PARTS
    orders = [[lane * size + FOURS * part + i for lane in range(LANES) for i in range(FOURS)] for part in range(PARTS)]
    return [
        bind,
        *(
            tirx.BufferStore(store.buffer, Shuffle([together], order), store.indices)
            for store, order in zip(stores, orders, strict=True)
        ),
    ]


def packed(cast: tirx.Cast) -> Expr:
    """What `narrow` gave, of 64 numbers, by packs; any other cast as it is."""
    found = saturating(cast) if int(cast.ty.dtype.lanes) == BYTES else None
    if found is None:
        return cast
    whole, limits, dtype = found
    size = BYTES // PARTS
    parts = [Shuffle([whole], list(range(first, first + size))) for first in range(0, BYTES, size)]
    fours = [LANES * part + lane for part in range(PARTS) for lane in range(LANES)]  # as they are wanted
    places = [part + PARTS * lane for part, lane in (divmod(four, LANES) for four in fours)]
    order = [FOURS * place + number for place in places for number in range(FOURS)]
    return Shuffle([saturated(parts, limits, dtype)], order)


def saturated(parts: list[Expr], limits: tuple[int, int], dtype: str) -> Expr:
    """Four vectors of 16 numbers in 8 bits, clipped: in lane l, numbers 4 l ... 4 l + 3 of the first, then of the
    second, and so on.
    """
    pairs = [call(f"int16x{WORDS}", PACK_WORDS, *parts[i : i + 2]) for i in (0, 2)]
    if limits != RANGES[dtype]:
        low, high = (tirx.Broadcast(tirx.const(limit, "int16"), WORDS) for limit in limits)
        pairs = [tirx.Min(tirx.Max(pair, low), high) for pair in pairs]
    return call(f"{dtype}x{BYTES}", PACK_BYTES[dtype], *pairs)


def side_by_side(planes: list[Expr], limits: tuple[int, int], dtype: str) -> Expr:
    """Two or four vectors of 16 numbers in 8 bits, clipped, their numbers in turn."""
    count = len(planes)
    bytes_ = saturated(planes * (PARTS // count), limits, dtype)
    size = BYTES // PARTS
    order = [i // FOURS * size + plane * FOURS + i % FOURS for i in range(size) for plane in range(count)]
    return Shuffle([bytes_], order)


def packs(target: Target) -> bool:
    """Whether the CPU has the packs."""
    return target_has_features("avx512bw", target)


def call(dtype: str, name: str, *args: Expr) -> Expr:
    """An intrinsic of LLVM's."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)
