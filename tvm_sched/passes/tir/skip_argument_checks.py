"""Leaves out the tests of arguments with which TVM begins a function, where only the network itself calls it."""

from tvm import IRModule, tirx
from tvm.tirx import PrimFunc

from tvm_sched.passes.tir.marks import INTERNAL


def skip_argument_checks(func: PrimFunc) -> PrimFunc:
    """The function without them, if it is marked. To run behind MakePackedAPI."""
    return tirx.transform.SkipAssert()(IRModule({"main": func}))["main"] if func.attrs.get(INTERNAL) else func
