"""Begins the sums of each channel with what is added to them in the end, by which they are fractions
(`kernels/integer/begun_sums.py`).
"""

from collections import Counter

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.rounding import constant
from tvm_sched.passes.integer.narrow_bytes import is_aarch64

CHANNEL = 1  # axis of all kernels' sums


def begin_sums(func: PrimFunc) -> PrimFunc:
    """The function with such sums, in registers, begun so. To run before blocks are lowered."""
    target = (func.attrs or {}).get("target") or Target.current(allow_none=True)
    if target is None or not is_aarch64(target):
        return func
    begun = beginnings(func)
    if not begun:
        return func

    def beginning(store: tirx.BufferStore) -> tirx.BufferStore:
        if store.buffer not in begun or constant(store.value) != 0:
            return store
        numbers = begun[store.buffer]
        channel = tirx.min(store.indices[CHANNEL], int(numbers.shape[0]) - 1)
        return tirx.BufferStore(store.buffer, numbers[channel], store.indices)

    def ended(addition: tirx.Add) -> Expr:
        return addition.a if is_ended(addition) and addition.a.source in begun else addition

    return tvm_ffi.structural_map(func, [(tirx.BufferStore, beginning), (tirx.Add, ended)])


def beginnings(func: PrimFunc) -> dict:
    """By local buffer of sums, begun with zero, the array of which a number is added to each sum where it is read."""
    loads: Counter = Counter()  # by buffer
    ends: Counter = Counter()
    zeros: set = set()
    added: dict = {}

    def see_load(load: ir.TensorLoad) -> None:
        loads[load.source] += 1

    def see_addition(addition: tirx.Add) -> None:
        if is_ended(addition):
            ends[addition.a.source] += 1
            added[addition.a.source] = addition.b.source

    def see_store(store: tirx.BufferStore) -> None:
        if constant(store.value) == 0:
            zeros.add(store.buffer)
            return
        going: list = []
        tvm_ffi.structural_walk(store.value, (ir.TensorLoad, going.append), order="post")
        ends[store.buffer] += sum(load.source.same_as(store.buffer) for load in going)

    seen = [(ir.TensorLoad, see_load), (tirx.Add, see_addition), (tirx.BufferStore, see_store)]
    tvm_ffi.structural_walk(func.body, seen, order="post")
    return {buffer: numbers for buffer, numbers in added.items() if buffer in zeros and ends[buffer] == loads[buffer]}


def is_ended(addition: tirx.Add) -> bool:
    """Whether to a sum its channel's number is added."""
    sums, number = addition.a, addition.b
    if not isinstance(sums, ir.TensorLoad) or not isinstance(number, ir.TensorLoad) or len(number.indices) != 1:
        return False
    if str(sums.source.ty.dtype) != "int32" or str(number.source.ty.dtype) != "int32" or len(sums.indices) <= CHANNEL:
        return False
    place = number.indices[0]
    place = place.a if isinstance(place, tirx.Min) and constant(place.b) is not None else place
    return sums.source.ty.storage_scope == "local" and tvm_ffi.structural_equal(place, sums.indices[CHANNEL])
