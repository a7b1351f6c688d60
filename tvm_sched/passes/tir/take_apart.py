"""Takes a fused function apart into two that are called one after the other: what a schedule does where it meets an
epilogue that it cannot compute in its registers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import PrimFunc

from tvm_sched.kernels.base import KERNEL_MARK


@dataclass(frozen=True)
class Halves:
    """`whole(*args, y)` as `first(*(args[i] for i in of_first), z)`, then `rest(*(args[i] for i in of_rest), z, y)`."""

    first: PrimFunc  # keeps the mark of the kernel
    of_first: list[int]
    rest: PrimFunc
    of_rest: list[int]

    @property
    def between(self) -> tirx.Buffer:
        """z, the result of the first."""
        return self.first.params[-1]


def halves(func: PrimFunc) -> Iterator[Halves]:
    """Every place where a function of one result is cut between two of its steps and nothing is computed twice, the
    longest first half first.
    """
    steps = steps_of(func)
    for last in reversed(range(len(steps) - 1)):
        between = steps[last].written
        first = needed(steps, last, set())
        rest = needed(steps, len(steps) - 1, between)
        if len(between) == 1 and not set(first) & set(rest):
            (z,) = between
            of_first, of_rest = (arguments(func, [steps[i] for i in half]) for half in (first, rest))
            yield Halves(
                part(func, [steps[i] for i in first], [*(func.params[i] for i in of_first), z], dict(func.attrs)),
                of_first,
                part(
                    func,
                    [steps[i] for i in rest],
                    [*(func.params[i] for i in of_rest), z, func.params[-1]],
                    {key: value for key, value in func.attrs.items() if key != KERNEL_MARK},
                ),
                of_rest,
            )


@dataclass(frozen=True)
class Step:
    """A statement of a function's outermost block, with the buffers that it reads and writes."""

    stmt: tirx.Stmt
    read: set[tirx.Buffer]
    written: set[tirx.Buffer]


def steps_of(func: PrimFunc) -> list[Step]:
    """The steps of a function that is a list of loop nests; a single one where it is anything else."""
    body = func.body.block.body if isinstance(func.body, SBlockRealize) else func.body
    steps = []
    for stmt in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        blocks: list[SBlock] = []
        tvm_ffi.structural_walk(stmt, (SBlock, blocks.append), order="post")
        read = {region.source for block in blocks for region in block.reads}
        steps.append(Step(stmt, read, {region.source for block in blocks for region in block.writes}))
    return steps


def needed(steps: list[Step], last: int, given: set[tirx.Buffer]) -> list[int]:
    """The steps, in order, that compute what step `last` writes from the function's arguments and `given`."""
    wanted, found = set(steps[last].written), []
    for i in reversed(range(last + 1)):
        if steps[i].written & wanted:
            found.append(i)
            wanted |= steps[i].read - given
    return found[::-1]


def arguments(func: PrimFunc, steps: list[Step]) -> list[int]:
    """Which of the function's arguments, its result aside, the steps read."""
    read = set().union(*(step.read for step in steps))
    return [i for i, param in enumerate(func.params[:-1]) if param in read]


def part(func: PrimFunc, steps: list[Step], params: list[tirx.Buffer], attrs: dict) -> PrimFunc:
    """The function of some steps."""
    whole = func.body.block
    written = set().union(*(step.written for step in steps))
    local = [buffer for buffer in whole.alloc_buffers if buffer in written and buffer not in set(params)]
    body = steps[0].stmt if len(steps) == 1 else tirx.SeqStmt([step.stmt for step in steps])
    block = SBlock([], [], [], whole.name_hint, body, alloc_buffers=local, annotations=whole.annotations)
    realize = SBlockRealize([], tirx.const(True, "bool"), block)
    return PrimFunc(params, realize, func.ret_type).with_attrs(attrs)
