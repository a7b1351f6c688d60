"""Starts a sum with its first product instead of with zero.

0 + a * b is a multiply-add for LLVM, which must respect the sign of zero, and a zero before it. A short sum whose terms
are all unrolled, as a depthwise kernel's, is a tenth shorter without.

A schedule marks the block (`loops.start_with_product`) and leaves the zeroing in it.
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock
from tvm.tirx import IterVar, PrimFunc

from tvm_sched.kernels.rewrites.loops import FIRST_PRODUCT


def first_products(func: PrimFunc) -> PrimFunc:
    """The function with the sums of its marked blocks begun so. To run before blocks are lowered."""
    return tvm_ffi.structural_map(func, (SBlock, started))


def started(block: SBlock) -> SBlock:
    """A marked block: its first step stores the term, the others add it."""
    if FIRST_PRODUCT not in block.annotations:
        return block
    sums = [axis for axis in block.iter_vars if axis.iter_type == IterVar.CommReduce]
    first = tirx.all(*(axis.var == axis.dom.min for axis in sums))
    store = block.body
    term = added(store)
    body = tirx.IfThenElse(first, tirx.BufferStore(store.buffer, term, store.indices), store)
    annotations = {key: value for key, value in block.annotations.items() if key != FIRST_PRODUCT}
    rest = (block.alloc_buffers, block.match_buffers, annotations)
    return SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, body, None, *rest)


def added(store: tirx.BufferStore):
    """The term of y = y + term."""
    total, term = store.value.a, store.value.b
    assert isinstance(store.value, tirx.Add) and isinstance(total, ir.TensorLoad), "a sum of te.sum"
    return term
