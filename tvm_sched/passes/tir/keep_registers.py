"""Puts a schedule's registers on the stack, where LLVM takes them for what they are.

Buffers of 'local' scope (sums, a tile on its way through a transform) are meant to be registers. TVM asks its allocator
for them, and the compiler must then assume that any store through another pointer, or a prefetch, may touch them: they
stay in memory. An object on the stack whose address nobody takes becomes registers for certain.
"""

from math import prod

import tvm_ffi
from tvm import DataType, tirx
from tvm.tirx import PrimFunc

ON_STACK = "disable_lower_builtin"  # TVM's annotation: this allocation is left to the code generator
MOST = 1 << 14  # bytes of a buffer; larger ones are no registers


def keep_registers(func: PrimFunc) -> PrimFunc:
    """The function with its small local buffers marked. To run right before LowerTVMBuiltin."""
    return tvm_ffi.structural_map(func, (tirx.AllocBuffer, on_stack))


def on_stack(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
    """The allocation, marked where it is one of registers."""
    buffer = alloc.buffer.ty
    element = DataType(str(buffer.dtype))
    size = prod(int(extent) for extent in buffer.shape) * element.lanes * element.bits // 8
    if buffer.storage_scope != "local" or size > MOST:
        return alloc
    return tirx.AllocBuffer(alloc.buffer, {**alloc.annotations, ON_STACK: tirx.const(1, "bool")})
