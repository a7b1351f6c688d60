"""Begins the sums of each channel with its number by which they are fractions (`kernels/integer/begun_sums.py`)."""

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.rounding import constant
from tvm_sched.passes.integer.aarch64.begun import begin_with
from tvm_sched.passes.integer.narrow_bytes import is_aarch64

CHANNEL = 1  # axis of all kernels' sums


def begin_sums(func: PrimFunc) -> PrimFunc:
    """The function with such sums, in registers, begun so. To run before blocks are lowered."""
    target = (func.attrs or {}).get("target") or Target.current(allow_none=True)
    return func if target is None or not is_aarch64(target) else begin_with(func, numbers, number_of)


def number_of(store: tirx.BufferStore, numbers) -> Expr:
    """That of the channel whose sum is stored."""
    return numbers[tirx.min(store.indices[CHANNEL], int(numbers.shape[0]) - 1)]


def numbers(addition: tirx.Add):
    """The array of a number for each channel, where an addition adds them to its sums."""
    sums, number = addition.a, addition.b
    if not isinstance(sums, ir.TensorLoad) or not isinstance(number, ir.TensorLoad) or len(number.indices) != 1:
        return None
    if str(sums.source.ty.dtype) != "int32" or str(number.source.ty.dtype) != "int32" or len(sums.indices) <= CHANNEL:
        return None
    place = number.indices[0]
    place = place.a if isinstance(place, tirx.Min) and constant(place.b) is not None else place
    own = sums.source.ty.storage_scope == "local" and tvm_ffi.structural_equal(place, sums.indices[CHANNEL])
    return number.source if own else None
