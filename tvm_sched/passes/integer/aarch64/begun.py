"""Sums of integers, in registers, that begin with what is added to each of them in the end, instead of with zero."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.rounding import constant

Ending = Callable[[tirx.Add], Any]  # what an addition adds to a sum that is read; None of any other addition
Beginning = Callable[[tirx.BufferStore, Any], Expr]  # what a store of zero stores instead, for what `Ending` gave


def begin_with(func: PrimFunc, ending: Ending, beginning: Beginning) -> PrimFunc:
    """The function with such sums begun so."""
    sums = sums_that_end(func, ending)
    if not sums:
        return func

    def begun(store: tirx.BufferStore) -> tirx.BufferStore:
        if store.buffer not in sums or constant(store.value) != 0:
            return store
        return tirx.BufferStore(store.buffer, beginning(store, sums[store.buffer]), store.indices)

    def ended(addition: tirx.Add) -> Expr:
        return addition.a if ending(addition) is not None and addition.a.source in sums else addition

    return tvm_ffi.structural_map(func, [(tirx.BufferStore, begun), (tirx.Add, ended)])


def sums_that_end(func: PrimFunc, ending: Ending) -> dict:
    """By buffer that holds nothing but sums, begun with zero, what is added to each of them where it is read, wherever
    it is read.
    """
    loads: Counter = Counter()  # by buffer
    known: Counter = Counter()  # those of sums that go on, or end
    zeros: set = set()
    others: set = set()  # buffers that hold something else, or whose sums end in several ways
    added: dict = {}

    def see_load(load: ir.TensorLoad) -> None:
        loads[load.source] += 1

    def see_addition(addition: tirx.Add) -> None:
        what = ending(addition)
        if what is None:
            return
        buffer = addition.a.source
        known[buffer] += 1
        if not tvm_ffi.structural_equal(added.setdefault(buffer, what), what, map_free_vars=False):
            others.add(buffer)

    def see_store(store: tirx.BufferStore) -> None:
        own: list = []
        tvm_ffi.structural_walk(store.value, (ir.TensorLoad, own.append), order="post")
        own = [load for load in own if load.source.same_as(store.buffer)]
        if constant(store.value) == 0:
            zeros.add(store.buffer)
        elif len(own) == 1 and tvm_ffi.structural_equal(own[0].indices, store.indices):
            known[store.buffer] += 1
        else:
            others.add(store.buffer)

    seen = [(ir.TensorLoad, see_load), (tirx.Add, see_addition), (tirx.BufferStore, see_store)]
    tvm_ffi.structural_walk(func.body, seen, order="post")
    return {
        buffer: what for buffer, what in added.items() if buffer in zeros - others and known[buffer] == loads[buffer]
    }
