"""Begins sums of integers with the ones by which small sums become fractions (`kernels/integer/rounding.py`)."""

from tvm import ir, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.rounding import ONES_BITS, constant
from tvm_sched.passes.integer.aarch64.begun import begin_with


def begin_with_ones(func: PrimFunc) -> PrimFunc:
    """The function with such sums, in registers, begun so. To run on vectorised loops."""
    return begin_with(func, ones, lambda store, number: with_value(store.value, number))


def ones(addition: tirx.Add) -> int | None:
    """The ones, where an addition adds them to a sum that is read."""
    if not isinstance(addition.a, ir.TensorLoad) or constant(addition.b) != ONES_BITS:
        return None
    return ONES_BITS if is_local(addition.a.source) else None


def is_local(buffer: tirx.Var) -> bool:
    """Whether a buffer is of registers, of integers of 32 bits or vectors of them."""
    return buffer.ty.storage_scope == "local" and str(buffer.ty.dtype.dtype.with_lanes(1)) == "int32"


def with_value(vector: Expr, number: int) -> Expr:
    """A constant, or a vector of one, with another value."""
    if isinstance(vector, tirx.Broadcast):
        return tirx.Broadcast(with_value(vector.value, number), vector.lanes)
    return tirx.const(number, vector.ty.dtype)
