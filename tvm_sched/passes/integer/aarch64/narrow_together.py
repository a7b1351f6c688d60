"""Stores of four narrowed numbers each, as AArch64's vectors of sums give them, made four at a time: LLVM narrows each
by itself, where a vector of 16 takes little more than one of four.
"""

from collections.abc import Callable
from math import inf

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.sym import Analyzer
from tvm.tirx import Shuffle

from tvm_sched.kernels.integer.rounding import narrow, narrowed

FOURS = 4  # numbers of a vector in 32 bits; vectors that are narrowed together


def narrowed_together(sequence: tirx.SeqStmt) -> tirx.Stmt:
    """The statements with such stores made together, those side by side in memory first."""
    return gathered(sequence, is_narrow, together)


def gathered(
    sequence: tirx.SeqStmt,
    waits: Callable[[tirx.Stmt], bool],
    together: Callable[[list[tirx.BufferStore]], list],
    most: float = inf,
) -> tirx.Stmt:
    """The statements, in which stores that may wait do so until there are `most` of them alike, or something else than
    naming a number comes between, and then are made `together`. Where a value is computed of what it goes over, it is
    so element by element (`passes/graph/write_in_place`): that it waits for others changes nothing.
    """
    made: list = []
    waiting: list = []
    for statement in sequence.seq:
        if waits(statement):
            if len(waiting) == most or (waiting and not alike(waiting[0], statement)):
                made, waiting = [*made, *together(waiting)], []
            waiting.append(statement)
        else:
            if len(waiting) == most or not names_a_number(statement):
                made, waiting = [*made, *together(waiting)], []
            made.append(statement)
    made += together(waiting)
    return tirx.SeqStmt(made) if len(made) > 1 else made[0]


def is_narrow(statement: tirx.Stmt) -> bool:
    """Whether a statement stores four narrowed numbers side by side."""
    if not isinstance(statement, tirx.BufferStore) or int(statement.value.ty.dtype.lanes) != FOURS:
        return False
    found = narrowed(statement.value)
    return found is not None and not binds(found[0]) and isinstance(statement.indices[-1], tirx.Ramp)


def alike(one: tirx.BufferStore, other: tirx.BufferStore) -> bool:
    """Whether two stores go to one buffer, and narrow in one way."""
    return one.buffer.same_as(other.buffer) and narrowed(one.value)[1:] == narrowed(other.value)[1:]


def together(stores: list[tirx.BufferStore]) -> list:
    """The statements for stores that wait: whole vectors of 16, then fours of several places."""
    made, single = [], []
    left = stores
    while left:
        count = next((i for i in range(1, min(len(left), FOURS)) if not follows(*left[i - 1 : i + 1])), FOURS)
        run, left = left[:count], left[count:]
        if len(run) == FOURS:
            vector, (*rest, first) = vector_of(run), run[0].indices
            made.append(tirx.BufferStore(run[0].buffer, vector, [*rest, tirx.Ramp(first.base, 1, FOURS * FOURS)]))
        else:
            single += run
    for first in range(0, len(single), FOURS):
        some = single[first : first + FOURS]
        made += apart(some) if len(some) > 1 else some
    return made


def follows(one: tirx.BufferStore, other: tirx.BufferStore) -> bool:
    """Whether the second store's place is right behind the first's."""
    analyzer = Analyzer()
    places = [[*store.indices[:-1], store.indices[-1].base] for store in (one, other)]
    places[0][-1] += FOURS
    return all(analyzer.can_prove_equal(*pair) for pair in zip(*places, strict=True))


def vector_of(stores: list[tirx.BufferStore]) -> Expr:
    """The 16 numbers in 8 bits of at most four stores, the last one's again where they are fewer."""
    found = [narrowed(store.value) for store in stores]
    numbers = [number for number, *_ in found] + [found[-1][0]] * (FOURS - len(found))
    return narrow(Shuffle(numbers, list(range(FOURS * FOURS))), *found[0][1:])


def apart(stores: list[tirx.BufferStore]) -> list:
    """Statements for stores to several places: words of a vector, which LLVM does not take apart again."""
    words = tirx.Var("narrowed", f"int32x{FOURS}")
    dtype = stores[0].value.ty.dtype
    return [
        tirx.Bind(words, tirx.reinterpret(words.ty.dtype, vector_of(stores))),
        *(
            tirx.BufferStore(store.buffer, tirx.reinterpret(dtype, Shuffle([words], [i])), store.indices)
            for i, store in enumerate(stores)
        ),
    ]


def names_a_number(statement: tirx.Stmt) -> bool:
    """Whether a statement only names what it computes of numbers at hand. One that loads may load what a store before
    it has written, under whatever name: buffers that are not needed at one time share memory.
    """
    return isinstance(statement, tirx.Bind) and not holds(statement.value, ir.TensorLoad)


def binds(value: Expr) -> bool:
    """Whether an expression names a part of itself: one name cannot stand for two values."""
    return holds(value, tirx.Let)


def holds(value: Expr, kind: type) -> bool:
    """Whether an expression of that kind is a part of this one."""
    found: list = []
    tvm_ffi.structural_walk(value, (kind, found.append), order="post")
    return bool(found)
