"""What a loop over numbers that lie side by side computes, as one expression of vectors.

A value is a tensor's number, or a few such numbers clipped, compared, added up or converted: what one loop's step
stores. TVM's own vectorised loops would do for that, where vectors need not be rearranged or lie over one another.
"""

from collections.abc import Callable

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.sym import Analyzer

from tvm_sched.passes.tir.insert_prefetches import replaced

PAIRS = (tirx.Max, tirx.Min, tirx.Add, tirx.Sub, tirx.Mul)


def may_be_vectors(value: Expr, loop: tirx.For, values: dict) -> bool:
    """Whether `vectors_of` takes a value: of its tensors that change with the loop, all do so alike, along their last
    axis. `values`: what the block's axes are.
    """
    if not known(value):
        return False
    places = [load.indices[-1] for load in loads(value) if varies(load, loop, values)]
    return all(tvm_ffi.structural_equal(place, places[0]) for place in places)


def vectors_of(value: Expr, lanes: int, load: Callable[[ir.TensorLoad], Expr]) -> Expr:
    """The value of so many steps; `load` gives a tensor's numbers of them."""
    if isinstance(value, ir.TensorLoad):
        return load(value)
    if isinstance(value, tirx.Cast):
        return vectors_of(value.value, lanes, load).astype(vector_type(value.ty.dtype, lanes))
    if isinstance(value, PAIRS):
        return type(value)(vectors_of(value.a, lanes, load), vectors_of(value.b, lanes, load))
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def known(value: Expr) -> bool:
    """Whether a value is made of nothing else than what `vectors_of` knows."""
    if isinstance(value, tirx.Cast):
        return known(value.value)
    if isinstance(value, PAIRS):
        return known(value.a) and known(value.b)
    return isinstance(value, (ir.TensorLoad, tirx.IntImm, tirx.FloatImm))


def loads(value: Expr) -> list[ir.TensorLoad]:
    """The numbers of tensors in a value."""
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(value, (ir.TensorLoad, found.append), order="post")
    return found


def varies(load: ir.TensorLoad, loop: tirx.For, values: dict) -> bool:
    """Whether a tensor's number is another in each step of the loop."""
    analyzer = Analyzer()
    if isinstance(loop.body, tirx.For):
        analyzer.bind(loop.body.loop_var, ir.Range(0, loop.body.extent))

    def at(step: int) -> list:
        return replaced(replaced(list(load.indices), values), {loop.loop_var: step})

    return not all(analyzer.can_prove_equal(one, other) for one, other in zip(at(0), at(1), strict=True))


def vector_type(dtype, lanes: int) -> str:
    """So many numbers of a type."""
    return f"{dtype}x{lanes}" if lanes > 1 else str(dtype)
