"""Loops and shapes in int32 where a function's data allow: what schedules and vector units want; Relax gives int64."""

import tvm
from tvm import IRModule
from tvm.tirx import PrimFunc

from tvm_sched.passes.tir.schedule_functions import takes_int64


def narrow_indices(func: PrimFunc) -> PrimFunc:
    """The function, its indices narrowed."""
    return func if takes_int64(func) else tvm.tirx.transform.ForceNarrowIndexToInt32()(IRModule({"main": func}))["main"]
