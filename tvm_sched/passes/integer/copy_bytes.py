"""Copies rows of a few bytes by vectors, where a schedule asks for it (`kernels/integer/planar/planes.py`): LLVM
unrolls such loops into bytes. What is computed of the bytes on the way, a clip or the greatest of several rows, is
computed so too.

A row takes vectors of a power of two; the last lies over the one before where the row is no multiple.
"""

from functools import partial

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.planar.planes import COPY
from tvm_sched.kernels.rewrites.tir_blocks import CHOICE
from tvm_sched.passes.integer.vector_values import may_be_vectors, varies, vector_type, vectors_of
from tvm_sched.passes.tir.insert_prefetches import replaced

MOST = 64  # bytes of a vector


def copy_bytes(func: PrimFunc) -> PrimFunc:
    """The function with vectors in the place of its marked loops. To run before blocks are lowered."""
    return tvm_ffi.structural_map(func, (tirx.For, rewritten))


def rewritten(loop: tirx.For):
    """A marked loop `for w: y[..., w] = x[..., w - left]`, if the row and the column are inside, by vectors; or of what
    is computed of several x.
    """
    if COPY not in loop.annotations:
        return loop
    left, width = (int(number) for number in loop.annotations[COPY])
    realize, extent = loop.body, int(loop.extent)
    values = {axis.var: value for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)}
    store = realize.block.body
    value = store.value.value if isinstance(store.value, tirx.Cast) else store.value

    taken = value.args[1] if is_choice(value) else value
    if not may_be_vectors(taken, loop, values):
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, realize)

    def at(expressions, column: int) -> list:
        return replaced(replaced(list(expressions), values), {loop.loop_var: column})

    def loaded(column: int, lanes: int, load: ir.TensorLoad) -> Expr:
        """A tensor's numbers of so many columns."""
        if not varies(load, loop, values):
            number = load.source.vload(at(load.indices, column))
            return number if lanes == 1 else tirx.Broadcast(number, lanes)
        return load.source.vload(at(load.indices, column), vector_type(load.ty.dtype, lanes))

    def stores(first: int, end: int, value: Expr) -> list:
        """Of columns `first` to `end`."""
        made = []
        for column, lanes in vectors(first, end):
            vector = vectors_of(value, lanes, partial(loaded, column, lanes))
            made.append(stored(store, at(store.indices, column), vector, lanes))
        return made

    def where(statement):
        """The statement, where the block is run at all: of a block row that is cut short not for every channel."""
        (predicate,) = at([realize.predicate], 0)
        return statement if is_true(predicate) else tirx.IfThenElse(predicate, statement, None)

    if not is_choice(value):
        return where(sequence(stores(0, extent, value)))
    inside, taken, zero = value.args
    end = min(left + width, extent)
    copied = [*stores(0, left, zero), *stores(left, end, taken), *stores(end, extent, zero)]
    (inside,) = at([inside], left)  # of a column that is copied: what is left to ask is the row
    return where(tirx.IfThenElse(inside, sequence(copied), sequence(stores(0, extent, zero))))


def vectors(first: int, end: int, most: int = MOST) -> list[tuple[int, int]]:
    """(first column, lanes) of vectors, of `most` lanes at the most, that cover these columns."""
    found = []
    while first < end:
        lanes = min(most, 1 << (end - first).bit_length() - 1)
        found.append((first, lanes))
        first += lanes
        left = end - first
        if 0 < left < lanes:  # one more of the next power of two, from the end
            lanes = 1 << (left - 1).bit_length()
            found.append((end - lanes, lanes))
            break
    return found


def stored(store: tirx.BufferStore, place: list, vector: Expr, lanes: int) -> tirx.BufferStore:
    """A vector in the type and at the place of what is stored."""
    *rest, last = place
    last = tirx.Ramp(last, 1, lanes) if lanes > 1 else last
    return tirx.BufferStore(store.buffer, vector.astype(vector_type(store.buffer.dtype, lanes)), [*rest, last])


def is_true(predicate: Expr) -> bool:
    """Whether a condition is known to hold."""
    return isinstance(predicate, tirx.IntImm) and bool(predicate.value)


def is_choice(value: Expr) -> bool:
    """Whether an expression chooses between two values."""
    return isinstance(value, ir.Call) and getattr(value.op, "name", "") == CHOICE


def sequence(statements: list):
    """One statement of several."""
    return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]
