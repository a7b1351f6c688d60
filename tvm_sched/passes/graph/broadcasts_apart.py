"""Keeps a broadcast out of the epilogue of what it broadcasts: squeeze and excite, where a convolution's few numbers
scale a whole image.

An epilogue is computed on a kernel's sums while they are in registers, so it has the shape of the kernel's output.
FuseOps does not look at shapes; it fuses by pattern, and it lets no convolution swallow an 'injective' function: that
is what such broadcasts are declared to be.
"""

from math import prod

import tvm
from tvm import IRModule, relax

from tvm_sched.passes.graph.relax_tools import is_op, shape_of

BROADCAST, INJECTIVE = 1, 2  # TVM's OpPatternKind


@tvm.transform.module_pass(opt_level=0)
def broadcasts_apart(mod: IRModule, _) -> IRModule:
    """To run between AnnotateTIROpPattern and FuseOps. Constants, as biases are, may still broadcast in an epilogue."""
    for block in mod["main"].body.blocks:
        for call in (binding.value for binding in block.bindings):
            if is_op(call, "relax.call_tir") and enlarges(call):
                func = mod[call.args[0]]
                if func.attrs.get("op_pattern") == BROADCAST:
                    mod.update_func(call.args[0], func.with_attr("op_pattern", INJECTIVE))
    return mod


def enlarges(call) -> bool:
    """Whether an argument that is computed is smaller than the result."""
    computed = [arg for arg in call.args[1] if isinstance(arg, relax.Var)]
    return isinstance(call.ty, relax.TensorType) and any(prod(shape_of(arg)) < prod(shape_of(call)) for arg in computed)
