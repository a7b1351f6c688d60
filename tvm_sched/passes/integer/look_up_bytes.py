"""Looks bytes up in tables of 256 by vectors, where the CPU can (`kernels/integer/look_up.py`); elsewhere the loop
stays as it is, a byte a step.

    AVX-512 VBMI    vpermi2b looks 64 bytes up in 128 by seven of their bits; the eighth picks one of two such
    AArch64         tbl looks 16 bytes up in 64, and gives 0 to those beyond; tbx leaves these as they are, so that the
                    next 64 follow, of bytes that are 64 less
"""

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.target.codegen import target_has_features
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.look_up import ENTRIES, LOOK_UP
from tvm_sched.passes.integer.narrow_bytes import call, is_aarch64
from tvm_sched.passes.tir.insert_prefetches import replaced

VBMI, PERMUTE = "avx512vbmi", "llvm.x86.avx512.vpermi2var.qi.512"
FIRST, NEXT = "llvm.aarch64.neon.tbl4.v16i8", "llvm.aarch64.neon.tbx4.v16i8"
REGISTERS = 4  # of a table's part that `tbl` takes
HALF = 128  # of the entries; and an int8 less the least one, but for its highest bit


def look_up_bytes(func: PrimFunc) -> PrimFunc:
    """The function with vectors in the place of its marked loops. To run before blocks are lowered."""
    target = (func.attrs or {}).get("target") or Target.current(allow_none=True)
    by = look_up_of(target) if target is not None else None
    return tvm_ffi.structural_map(func, (tirx.For, lambda loop: rewritten(loop, by)))


def look_up_of(target: Target):
    """(lanes, function of the table's vectors and a vector of whole positions) of a target; None where it has none."""
    if is_aarch64(target):
        return 16, by_parts
    return (64, by_halves) if target_has_features(VBMI, target) else None


def rewritten(loop: tirx.For, by):
    """A marked loop `for i: y[i] = table[x[i] - least]` by vectors, and what is left a byte a step."""
    if LOOK_UP not in loop.annotations:
        return loop
    extent, realize = int(loop.extent), loop.body
    lanes, function = by or (extent + 1, None)
    values = {axis.var: value for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)}
    store = realize.block.body
    table, x = store.value, loaded_by(store.value)

    def at(load, position: Expr) -> list:
        return replaced(replaced(list(load.indices), values), {loop.loop_var: position})

    made = []
    if extent >= lanes:
        step = tirx.Var("step", loop.loop_var.ty)
        numbers = x.source.vload(at(x, step * lanes), f"{x.source.dtype}x{lanes}")
        positions = tirx.reinterpret(f"uint8x{lanes}", numbers)
        if x.source.dtype == "int8":
            positions = positions ^ tirx.Broadcast(tirx.const(HALF, "uint8"), lanes)
        parts = [table.source.vload([first], f"{table.source.dtype}x{lanes}") for first in range(0, ENTRIES, lanes)]
        place = tirx.Ramp(at(store, step * lanes)[0], 1, lanes)
        vector = tirx.BufferStore(store.buffer, function(parts, positions), [place])
        made.append(tirx.For(step, 0, extent // lanes, tirx.ForKind.SERIAL, vector))
    if left := extent % lanes:
        step = tirx.Var("left", loop.loop_var.ty)
        number = x.source.vload(at(x, extent - left + step)).astype("int32")
        least = HALF if x.source.dtype == "int8" else 0
        single = tirx.BufferStore(store.buffer, table.source.vload([number + least]), at(store, extent - left + step))
        made.append(tirx.For(step, 0, left, tirx.ForKind.SERIAL, single))
    return tirx.SeqStmt(made) if len(made) > 1 else made[0]


def loaded_by(load) -> object:
    """The load of the number by which another one is looked up."""
    found: list = []
    tvm_ffi.structural_walk(load.indices[0], (type(load), found.append), order="post")
    return found[0]


def by_halves(table: list[Expr], positions: Expr) -> Expr:
    """By AVX-512 VBMI."""
    dtype, lanes = str(table[0].ty.dtype), int(positions.ty.dtype.lanes)
    low, high = (call(dtype, PERMUTE, table[i], positions, table[i + 1]) for i in (0, 2))
    return tirx.Select(positions < tirx.Broadcast(tirx.const(HALF, "uint8"), lanes), low, high)


def by_parts(table: list[Expr], positions: Expr) -> Expr:
    """By NEON."""
    dtype, lanes = str(table[0].ty.dtype), int(positions.ty.dtype.lanes)
    size = tirx.Broadcast(tirx.const(REGISTERS * lanes, "uint8"), lanes)
    made = call(dtype, FIRST, *table[:REGISTERS], positions)
    for first in range(REGISTERS, len(table), REGISTERS):
        positions = positions - size
        made = call(dtype, NEXT, made, *table[first : first + REGISTERS], positions)
    return made
