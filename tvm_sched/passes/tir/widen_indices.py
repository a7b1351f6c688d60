"""Takes what does not change out of an address that holds a loaded index.

The address of x[p, indices[k]] is p * C + indices[k] numbers from the start. In int32 the sum may wrap, for all that
the compiler knows, so it is computed in each step, after the index has come and before the pixel can; in int64 p * C
joins the start of x ahead of the loop.

Only where the sum runs over the index alone: over the taps of a kernel too, there would be a start for each tap, more
than there are registers.
"""

from functools import partial

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock
from tvm.tirx import IterVar, PrimFunc

from tvm_sched.kernels.rewrites.tir_blocks import variables


def widen_indices(func: PrimFunc) -> PrimFunc:
    """The function with such indices in int64. To run before blocks are lowered."""
    return tvm_ffi.structural_map(func, (SBlock, in_block))


def in_block(block: SBlock) -> SBlock:
    """The block with such indices in int64."""
    summed = {axis.var for axis in block.iter_vars if axis.iter_type == IterVar.CommReduce and not is_one(axis)}
    if not summed:  # as of the root, which holds the other blocks
        return block
    body = tvm_ffi.structural_map(block.body, (ir.TensorLoad, partial(in_load, summed)))
    return block if body.same_as(block.body) else replaced_body(block, body)


def in_load(summed: set, load):
    """The load with a loaded index in int64, unless its other indices change with the sum too."""
    others = [index for index in load.indices if not is_loaded(index)]
    if len(others) == len(load.indices) or any(summed & variables(index) for index in others):
        return load
    indices = [tirx.Cast("int64", index) if is_loaded(index) else index for index in load.indices]
    return tirx.BufferLoad(load.source, indices)


def is_one(axis: IterVar) -> bool:
    """Whether an axis has one step; an extent that is no number, as of an adaptive pool, may be more."""
    return isinstance(axis.dom.extent, tirx.IntImm) and int(axis.dom.extent) == 1


def is_loaded(index) -> bool:
    """Whether an index is a number in int32 that was loaded."""
    return isinstance(index, ir.TensorLoad) and str(index.source.dtype) == "int32"


def replaced_body(block: SBlock, body) -> SBlock:
    """The block with another body."""
    return SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
