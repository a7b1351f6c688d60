"""Begins sums of integers with what is added to each of them in the end, instead of with zero: the ones by which small
sums become fractions (`kernels/integer/rounding.py`).
"""

from collections import Counter

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.rounding import ONES_BITS, constant


def begin_with_ones(func: PrimFunc) -> PrimFunc:
    """The function with such sums, in registers, begun so. To run on vectorised loops."""
    sums = begun(func)
    if not sums:
        return func

    def beginning(store: tirx.BufferStore) -> tirx.BufferStore:
        if store.buffer not in sums or constant(store.value) != 0:
            return store
        return tirx.BufferStore(store.buffer, with_value(store.value, ONES_BITS), store.indices)

    def ended(addition: tirx.Add) -> Expr:
        return addition.a if is_ended(addition) and addition.a.source in sums else addition

    return tvm_ffi.structural_map(func, [(tirx.BufferStore, beginning), (tirx.Add, ended)])


def begun(func: PrimFunc) -> set:
    """The local buffers that hold nothing but sums, begun with zero, to each of which the ones are added where it is
    read.
    """
    loads: Counter = Counter()  # by buffer
    known: Counter = Counter()  # those of sums that go on, or get the ones
    zeros: set = set()
    others: set = set()  # buffers that hold something else

    def see_load(load: ir.TensorLoad) -> None:
        loads[load.source] += 1

    def see_addition(addition: tirx.Add) -> None:
        if is_ended(addition):
            known[addition.a.source] += 1

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
    return {buffer for buffer in zeros - others if is_local(buffer) and known[buffer] == loads[buffer]}


def is_local(buffer: tirx.Var) -> bool:
    """Whether a buffer is of registers, of integers of 32 bits or vectors of them."""
    return buffer.ty.storage_scope == "local" and str(buffer.ty.dtype.dtype.with_lanes(1)) == "int32"


def is_ended(addition: tirx.Add) -> bool:
    """Whether the ones are added to what is read."""
    return isinstance(addition.a, ir.TensorLoad) and constant(addition.b) == ONES_BITS


def with_value(vector: Expr, number: int) -> Expr:
    """A constant, or a vector of one, with another value."""
    if isinstance(vector, tirx.Broadcast):
        return tirx.Broadcast(with_value(vector.value, number), vector.lanes)
    return tirx.const(number, vector.ty.dtype)
