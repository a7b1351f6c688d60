"""Dot products of integers in the instructions of the CPU that code is made for (`kernels/integer/dots.py`), and the
loops of their sums.

LLVM unrolls a loop of a few steps, then loads what it reads before the loops outside, into more vectors than there are
registers. A marked loop (`loops.keep_rolled`) has a number of steps that it does not see through: a fraction behind a
fence, once a function.
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.dots import CALL, lowered
from tvm_sched.kernels.rewrites.loops import ROLLED


def lower_dots(func: PrimFunc) -> PrimFunc:
    """The function with its dot products lowered for the current target."""
    target = func.attrs.get("target") if func.attrs else None
    target = target or Target.current()

    def rewrite(call):
        name = getattr(call.op, "name", "")
        if name == "tirx.call_pure_extern" and str(call.args[0].value).startswith(CALL):
            return lowered(call, target)
        return call

    return tvm_ffi.structural_map(func, [(ir.Call, rewrite), (tirx.For, rolled)])


def rolled(loop: tirx.For) -> tirx.For:
    """A marked loop with such a number of steps; any other as it is."""
    if ROLLED not in loop.annotations:
        return loop
    steps = tirx.const(float(int(loop.extent)), "float32")
    steps = tirx.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", steps).astype("int32")
    annotations = {key: value for key, value in loop.annotations.items() if key != ROLLED}
    return tirx.For(loop.loop_var, loop.min, steps, loop.kind, loop.body, annotations=annotations)
