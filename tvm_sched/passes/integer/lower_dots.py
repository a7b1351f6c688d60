"""Dot products of integers in the instructions of the CPU that code is made for (`kernels/integer/dots.py`)."""

import tvm_ffi
from tvm import ir
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.dots import CALL, lowered


def lower_dots(func: PrimFunc) -> PrimFunc:
    """The function with its dot products lowered for the current target."""
    target = func.attrs.get("target") if func.attrs else None
    target = target or Target.current()

    def rewrite(call):
        name = getattr(call.op, "name", "")
        if name == "tirx.call_pure_extern" and str(call.args[0].value).startswith(CALL):
            return lowered(call, target)
        return call

    return tvm_ffi.structural_map(func, (ir.Call, rewrite))
