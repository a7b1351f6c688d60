"""A pass over a module's TIR functions, made of a rewrite of one."""

from collections.abc import Callable

from tvm.tirx import PrimFunc
from tvm.tirx.transform import prim_func_pass


def each(rewrite: Callable[[PrimFunc], PrimFunc]):
    """The pass that rewrites each TIR function."""
    return prim_func_pass(lambda func, _mod, _context: rewrite(func), opt_level=0, name=rewrite.__name__)
