"""Puts a schedule's registers on the stack, where LLVM takes them for what they are.

Buffers of 'local' scope (sums, a tile on its way through a transform) are meant to be registers. TVM asks its allocator
for them, and the compiler must then assume that any store through another pointer, or a prefetch, may touch them: they
stay in memory. An object on the stack whose address nobody takes becomes registers for certain.

What a kernel interleaves for a tile goes there as well, though it is read as memory: for its sake LLVM aligns the
stack, so that vectors which do not fit the registers lie in one cache line each.
"""

from collections.abc import Sequence
from math import inf, prod

import tvm_ffi
from tvm import DataType, ir, tirx
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.planar.problem import INTERLEAVED

ON_STACK = "disable_lower_builtin"  # TVM's annotation: this allocation is left to the code generator
MOST = 1 << 14  # bytes of a buffer; larger ones are no registers
MOST_SCRATCH = 1 << 15  # of what is interleaved


def keep_registers(func: PrimFunc) -> PrimFunc:
    """The function with its small local buffers marked. To run right before LowerTVMBuiltin."""
    reached = elements_reached(func)

    def on_stack(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
        buffer = alloc.buffer.ty
        scratch = alloc.buffer.name.startswith(INTERLEAVED)
        if buffer.storage_scope != "local" and not scratch:
            return alloc
        element = DataType(str(buffer.dtype))
        elements = reached.get(alloc.buffer, prod(int(extent) for extent in buffer.shape))
        size = elements * element.lanes * element.bits // 8
        if size > (MOST_SCRATCH if scratch else MOST):
            return alloc
        return tirx.AllocBuffer(alloc.buffer, {**alloc.annotations, ON_STACK: tirx.const(1, "bool")})

    return tvm_ffi.structural_map(func, (tirx.AllocBuffer, on_stack))


def elements_reached(func: PrimFunc) -> dict:
    """By flat buffer, how many of its first elements are used, of those that are used at constant places only: TVM
    allocates for a tile that is cut short as if it lay anywhere in its band, and LLVM drops what nobody uses.
    """
    places: dict = {}

    def see(buffer: tirx.Var, indices: Sequence) -> None:
        place = int(indices[0]) + 1 if len(indices) == 1 and isinstance(indices[0], tirx.IntImm) else inf
        places[buffer] = max(place, places.get(buffer, 0))

    tvm_ffi.structural_walk(
        func.body,
        [
            (ir.TensorLoad, lambda load: see(load.source, load.indices)),
            (tirx.BufferStore, lambda store: see(store.buffer, store.indices)),
        ],
        order="post",
    )
    views: list[tirx.DeclBuffer] = []  # of a buffer's memory under another name
    tvm_ffi.structural_walk(func.body, (tirx.DeclBuffer, views.append), order="post")
    viewed = {view.data for view in views}
    return {buffer: place for buffer, place in places.items() if place < inf and buffer not in viewed}
