"""Interleaves by vectors, where a schedule asks for it (`kernels/integer/interleave.py`)."""

from functools import partial

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx import PrimFunc, Shuffle

from tvm_sched.kernels.integer.interleave import FOUR, INTERLEAVE, LANE, MOST, interleaved
from tvm_sched.kernels.integer.rounding import narrow, narrow_words, narrowed
from tvm_sched.passes.integer.copy_bytes import is_choice, vectors
from tvm_sched.passes.integer.narrow_bytes import is_aarch64, packs, side_by_side
from tvm_sched.passes.integer.vector_values import may_be_vectors, varies, vector_type, vectors_of
from tvm_sched.passes.tir.insert_prefetches import replaced

FULL = 16  # 32-bit numbers of a vector that is packed


def interleave_bytes(func: PrimFunc) -> PrimFunc:
    """The function with vectors in the place of its marked loops. To run before blocks are lowered."""
    target = (func.attrs or {}).get("target") or Target.current(allow_none=True)
    packing = target is not None and packs(target)
    # Of wider vectors numbers cross registers, for which AArch64 has tables alone.
    most = LANE // 8 if target is not None and is_aarch64(target) else MOST
    return tvm_ffi.structural_map(func, (tirx.For, lambda loop: rewritten(loop, packing, most)))


def rewritten(loop: tirx.For, packing: bool, most: int = MOST):
    """A marked loop `for p: for j: out[..., p * group + j] = x[...]`, or of what is computed of several x, by vectors.
    A vector of bytes is of `most` pixels at most, of 16 for AArch64, which interleaves four of them as it stores them.
    Numbers of 32 bits that are narrowed on the way (`rounding.narrow`), two or four vectors of 16, are so by packs
    where the CPU has them (`packing`).
    """
    if INTERLEAVE not in loop.annotations:
        return loop
    inner = loop.body
    realize = inner.body
    values = {axis.var: value for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)}
    store = realize.block.body
    group, (stride, pixels) = int(inner.extent), map(int, loop.annotations[INTERLEAVE])
    narrowing = narrowed(store.value)
    value = store.value.value if isinstance(store.value, tirx.Cast) else store.value
    value = value.args[1] if is_choice(value) else value
    value = narrowing[0] if narrowing else value
    if not may_be_vectors(value, loop, values):
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner)

    def at(indices, pixel: int, j: int) -> list:
        return replaced(replaced(list(indices), values), {loop.loop_var: pixel, inner.loop_var: j})

    def loaded(pixel: int, width: int, j: int, load: ir.TensorLoad) -> Expr:
        """A tensor's numbers of so many pixels."""
        place = at(load.indices, pixel, j)
        if not varies(load, loop, values):
            return tirx.Broadcast(load.source.vload(place), width) if width > 1 else load.source.vload(place)
        return strided(load, place, stride, width)

    stores = []
    # On AArch64 narrowing takes several vectors of 32 bits, which give one of bytes.
    narrows = bool(narrowing) and most * 8 == LANE
    widest = most // group if narrows else most * 8 // value.ty.dtype.bits
    at_once = by_store(value, group, pixels, most) and not narrowing
    for first, width in overlapping(pixels, most) if at_once else vectors(0, pixels, widest):
        planes = [vectors_of(value, width, partial(loaded, first, width, j)) for j in range(group)]
        if width == 1:
            for j, number in enumerate(planes):
                number = narrow(number, *narrowing[1:]) if narrowing else number.astype(store.buffer.dtype)
                stores.append(tirx.BufferStore(store.buffer, number, at(store.indices, first, j)))
            continue
        if at_once or (packs_at_once(narrowing, width, group) if packing else narrows):
            *rest, last = at(store.indices, first, 0)
            packed = packing and not at_once
            vector = side_by_side(planes, *narrowing[1:-1]) if packed else in_turn(planes, narrowing)
            stores.append(tirx.BufferStore(store.buffer, vector, [*rest, tirx.Ramp(last, 1, width * group)]))
            continue
        planes = [narrow(plane, *narrowing[1:]) for plane in planes] if narrowing else planes
        *rest, last = at(store.indices, first, 0)
        for i, vector in enumerate(interleaved(planes)):
            place = [*rest, tirx.Ramp(last + i * width, 1, width)]
            wide = vector.astype(vector_type(store.buffer.dtype, width))
            stores.append(tirx.BufferStore(store.buffer, wide, place))
    return tirx.SeqStmt(stores) if len(stores) > 1 else stores[0]


def by_store(value: Expr, group: int, pixels: int, most: int) -> bool:
    """Whether four planes of bytes, of a register or more, are interleaved as they are stored: LLVM finds the
    instruction (AArch64's `st4`).
    """
    return most * 8 == LANE and group == FOUR and int(value.ty.dtype.bits) == 8 and pixels >= most


def overlapping(pixels: int, lanes: int) -> list[tuple[int, int]]:
    """(first pixel, lanes) of whole vectors, of which the last may begin within the one before."""
    return [(min(first, pixels - lanes), lanes) for first in range(0, pixels, lanes)]


def packs_at_once(narrowing: tuple | None, width: int, group: int) -> bool:
    """Whether so many planes of so many numbers are narrowed together by packs, which clip them to 16 bits."""
    return narrowing is not None and not narrowing[-1] and width == FULL and group in (2, 4)


def in_turn(planes: list[Expr], narrowing: tuple | None) -> Expr:
    """The planes' numbers, those of one pixel after those of another; where `narrowing` says so in 8 bits, narrowed
    side by side and then looked up.
    """
    width, count = int(planes[0].ty.dtype.lanes), len(planes)
    order = [plane * width + pixel for pixel in range(width) for plane in range(count)]
    if not narrowing:
        return Shuffle(planes, order)
    *_, small = narrowing
    if small and count == 2:  # the low halves of words, in turn: one instruction (AArch64's `trn1`)
        halves = [tirx.reinterpret(f"int16x{2 * width}", plane) for plane in planes]
        places = [plane * 2 * width + 2 * pixel for pixel in range(width) for plane in range(count)]
        return narrow_words(Shuffle(halves, places), *narrowing[1:-1])
    together = Shuffle(planes, list(range(width * count))) if count > 1 else planes[0]
    return Shuffle([narrow(together, *narrowing[1:])], order)


def strided(load: ir.TensorLoad, first: list, stride: int, width: int) -> Expr:
    """A vector of numbers, the first at these indices, each `stride` behind the one before."""
    *rest, last = first
    vectors = [load.source.vload([*rest, last + i * width], vector_type(load.ty.dtype, width)) for i in range(stride)]
    return vectors[0] if stride == 1 else Shuffle(vectors, list(range(0, stride * width, stride)))
