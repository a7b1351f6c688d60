"""Has compiled kernels test, before each access, that it lies inside its buffer.

A kernel that reads beside its buffer gives right numbers as long as nobody asks what became of them, and yet the
compiler may take for granted that it does not: of such a loop it makes anything. So every load and store of flat memory
is asserted to be inside; what is prefetched, and what a condition guards, is not. To be used in checks: such code takes
several times as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvm_sched import codegen
from tvm_sched.kernels.rewrites.tir_blocks import CHOICE
from tvm_sched.passes.tir.each import each

BEFORE = "sum_in_blocks"  # the phase of `codegen.FINISHING` that meets the assertions first
ADDRESS = "tirx.address_of"
CHILD = ("a", "b", "value", "condition", "true_value", "false_value", "base", "stride", "body")
CHILDREN = ("args", "vectors", "indices")


@contextmanager
def bounds_checked() -> Iterator[None]:
    """What is compiled meanwhile tests its accesses; a call that one is outside of its buffer in raises an error."""
    before = codegen.FINISHING
    place = [phase.name for phase in before].index(BEFORE)
    phase = codegen.CodePhase("check_bounds", each(check_bounds))
    codegen.FINISHING = (*before[:place], phase, *before[place:])
    try:
        yield
    finally:
        codegen.FINISHING = before


def check_bounds(func: PrimFunc) -> PrimFunc:
    """The function with an assertion before each statement that accesses memory."""
    return tvm_ffi.structural_map(func, [((tirx.BufferStore, tirx.Bind, tirx.Evaluate), checked)])


def checked(statement: tirx.Stmt) -> tirx.Stmt:
    """The statement behind the assertions of its accesses."""
    found = list(accesses(statement.value, tirx.const(True, "bool")))
    if isinstance(statement, tirx.BufferStore):
        found += [inside(statement.buffer, statement.indices)]
        found += [each for index in statement.indices for each in accesses(index, tirx.const(True, "bool"))]
    tests = [
        tirx.AssertStmt(condition, ir.StringImm("IndexError"), [ir.StringImm(f"beside its buffer: {name}")])
        for name, condition in found
    ]
    return tirx.SeqStmt([*tests, statement]) if tests else statement


def accesses(expr: Expr, guard: Expr) -> Iterator[tuple[str, Expr]]:
    """(buffer's name, what must hold) of each load in an expression that is computed where `guard` holds."""
    called = getattr(getattr(expr, "op", None), "name", "")
    if called == ADDRESS:
        return
    if called == CHOICE:
        condition, one, other = expr.args
        yield from accesses(condition, guard)
        if condition.ty.dtype.lanes > 1:  # one for each lane, of which each loads by itself
            return
        yield from accesses(one, tirx.all(guard, condition))
        yield from accesses(other, tirx.all(guard, tirx.Not(condition)))
        return
    if isinstance(expr, ir.TensorLoad):
        source, condition = inside(expr.source, expr.indices)
        yield source, tirx.any(tirx.Not(guard), condition)
    children = [getattr(expr, name, None) for name in CHILD]
    children += [child for name in CHILDREN for child in getattr(expr, name, ())]
    for child in children:
        if isinstance(child, Expr):
            yield from accesses(child, guard)


def inside(buffer: tirx.Buffer, indices) -> tuple[str, Expr]:
    """(the buffer's name, that each index is at least 0 and less than its extent)"""
    conditions = []
    for index, extent in zip(indices, buffer.shape, strict=True):
        ends = [index]
        if isinstance(index, tirx.Ramp):
            ends = [index.base, index.base + index.stride * (index.lanes - 1)]
        conditions += [test for end in ends for test in (end >= 0, end < extent)]
    return buffer.name, tirx.all(*conditions)
