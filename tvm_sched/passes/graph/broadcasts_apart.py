"""Keeps out of the epilogue of what it reads a function whose result has another shape: a broadcast, as in squeeze and
excite, where a convolution's few numbers scale a whole image; a margin behind the image; its first rows.

An epilogue is computed on a kernel's sums while they are in registers, so it has the shape of the kernel's output.
FuseOps does not look at shapes; it fuses by pattern, and TVM takes what reads each element at its own position for
elementwise, also where the result has more of them, or fewer. FuseOps lets no convolution swallow an 'injective'
function: that is what these are declared to be.
"""

from math import prod

import tvm
from tvm import IRModule, relax

from tvm_sched.passes.graph.relax_tools import is_op, shape_of

ELEMENTWISE, BROADCAST, INJECTIVE = 0, 1, 2  # TVM's OpPatternKind


@tvm.transform.module_pass(opt_level=0)
def broadcasts_apart(mod: IRModule, _) -> IRModule:
    """To run between AnnotateTIROpPattern and FuseOps. Constants, as biases are, may still broadcast in an epilogue."""
    for block in mod["main"].body.blocks:
        for call in (binding.value for binding in block.bindings):
            if is_op(call, "relax.call_tir") and resizes(call):
                func = mod[call.args[0]]
                if func.attrs.get("op_pattern") in (ELEMENTWISE, BROADCAST):
                    mod.update_func(call.args[0], func.with_attr("op_pattern", INJECTIVE))
    return mod


def resizes(call) -> bool:
    """Whether an argument that is computed has not as many elements as the result."""
    computed = [arg for arg in call.args[1] if isinstance(arg, relax.Var)]
    return isinstance(call.ty, relax.TensorType) and any(
        prod(shape_of(arg)) != prod(shape_of(call)) for arg in computed
    )
