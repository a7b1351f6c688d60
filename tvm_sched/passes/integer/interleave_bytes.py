"""Interleaves by vectors, where a schedule asks for it (`kernels/integer/interleave.py`)."""

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx import PrimFunc, Shuffle

from tvm_sched.kernels.integer.interleave import INTERLEAVE, MOST, interleaved
from tvm_sched.kernels.integer.rounding import narrow, narrowed
from tvm_sched.passes.integer.copy_bytes import is_choice, vectors
from tvm_sched.passes.integer.narrow_bytes import packs, side_by_side
from tvm_sched.passes.tir.insert_prefetches import replaced

FULL = 16  # 32-bit numbers of a vector that is packed


def interleave_bytes(func: PrimFunc) -> PrimFunc:
    """The function with vectors in the place of its marked loops. To run before blocks are lowered."""
    target = (func.attrs or {}).get("target") or Target.current()
    return tvm_ffi.structural_map(func, (tirx.For, lambda loop: rewritten(loop, packs(target))))


def rewritten(loop: tirx.For, packing: bool):
    """A marked loop `for p: for j: out[..., p * group + j] = x[...]` by vectors. For a group of four, p is a
    multiple of the numbers in a 128-bit lane. Or of 32-bit numbers that are narrowed on the way (`rounding.narrow`), of
    two or four vectors of 16 by packs, where the CPU has them (`packing`).
    """
    if INTERLEAVE not in loop.annotations:
        return loop
    inner = loop.body
    realize = inner.body
    values = {axis.var: value for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)}
    store = realize.block.body
    group, (stride, pixels) = int(inner.extent), map(int, loop.annotations[INTERLEAVE])
    narrowing = narrowed(store.value)
    load = store.value.value if isinstance(store.value, tirx.Cast) else store.value
    load = load.args[1] if is_choice(load) else load
    load = narrowing[0] if narrowing else load
    if not isinstance(load, ir.TensorLoad):  # something is computed on the way, which was fused before the layer
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner)

    def at(indices, pixel: int, j: int) -> list:
        return replaced(replaced(list(indices), values), {loop.loop_var: pixel, inner.loop_var: j})

    stores = []
    for first, width in vectors(0, pixels, MOST * 8 // int(load.ty.dtype.bits)):
        if width == 1:
            for j in range(group):
                number = load.source.vload(at(load.indices, first, j))
                number = narrow(number, *narrowing[1:]) if narrowing else number.astype(store.buffer.dtype)
                stores.append(tirx.BufferStore(store.buffer, number, at(store.indices, first, j)))
            continue
        planes = [strided(load, at(load.indices, first, j), stride, width) for j in range(group)]
        if narrowing and packing and width == FULL and group in (2, 4):
            *rest, last = at(store.indices, first, 0)
            vector = side_by_side(planes, *narrowing[1:])
            stores.append(tirx.BufferStore(store.buffer, vector, [*rest, tirx.Ramp(last, 1, width * group)]))
            continue
        planes = [narrow(plane, *narrowing[1:]) for plane in planes] if narrowing else planes
        for i, vector in enumerate(interleaved(planes)):
            *rest, last = at(store.indices, first + i * width // group, 0)
            place = [*rest, tirx.Ramp(last, 1, width)]
            wide = (
                vector
                if str(load.ty.dtype) == str(store.buffer.dtype)
                else vector.astype(f"{store.buffer.dtype}x{width}")
            )
            stores.append(tirx.BufferStore(store.buffer, wide, place))
    return tirx.SeqStmt(stores) if len(stores) > 1 else stores[0]


def strided(load: ir.TensorLoad, first: list, stride: int, width: int) -> Expr:
    """A vector of numbers, the first at these indices, each `stride` behind the one before."""
    *rest, last = first
    vectors = [load.source.vload([*rest, last + i * width], f"{load.ty.dtype}x{width}") for i in range(stride)]
    return vectors[0] if stride == 1 else Shuffle(vectors, list(range(0, stride * width, stride)))
