"""Addresses pixels by one number where a loop counts them so.

A 1x1 kernel runs over all pixels of an image as one axis p, and reads x[p // W, p % W, c]. The address is p, namely
(p // W) * W + p % W pixels from the start; but once p is a band's first pixel and a few more, the compiler no longer
sees that, and divides for each pixel of each step: half of the kernel's time. Here the row's number joins the column's
while p is still one variable: x[0, p, c], the same element.
"""

from functools import reduce

import tvm_ffi
from tvm import ir, tirx
from tvm.sym import Analyzer
from tvm.tirx import PrimFunc

DIVISIONS = (tirx.FloorDiv, tirx.FloorMod)


def flatten_indices(func: PrimFunc) -> PrimFunc:
    """The function with the pixels of its arguments addressed by one number where that takes no division. To run before
    blocks are lowered.
    """
    arguments = set(func.params)

    def load(expr):
        flat = flat_indices(expr.source, expr.indices) if expr.source in arguments else None
        return tirx.BufferLoad(expr.source, flat) if flat else expr

    def store(stmt):
        flat = flat_indices(stmt.buffer, stmt.indices) if stmt.buffer in arguments else None
        return tirx.BufferStore(stmt.buffer, stmt.value, flat) if flat else stmt

    return tvm_ffi.structural_map(tvm_ffi.structural_map(func, (ir.TensorLoad, load)), (tirx.BufferStore, store))


def flat_indices(buffer, indices) -> list | None:
    """[0, ..., 0, pixel, channel] for indices that divide; None where none does, or where the pixel's number would
    still divide.
    """
    pixel, channel = indices[:-1], indices[-1:]  # of a scalar both are empty
    if not any(map(divides, pixel)):
        return None
    *extents, _ = buffer.shape
    number = Analyzer().simplify(
        reduce(
            lambda before, axis: before * axis[0] + axis[1], zip(extents, pixel, strict=True), tirx.const(0, "int32")
        )
    )
    return None if divides(number) else [*(tirx.const(0, "int32") for _ in pixel[1:]), number, *channel]


def divides(expr) -> bool:
    """Whether there is a division in an index."""
    found = []
    for kind in DIVISIONS:
        tvm_ffi.structural_walk(expr, (kind, found.append), order="post")
    return bool(found)
