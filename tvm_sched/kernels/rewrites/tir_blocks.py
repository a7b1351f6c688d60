"""What a TIR block is: the questions a schedule asks before it rewrites, so that no rewrite is tried to see whether it
fails.

A function that Relax lowers is a list of blocks, each in loops of its own: `for i, j, k: block(vi=i, vj=j, vk=k)`. A
spatial axis (i, j) names what the block writes; a reduction axis (k) is summed over. Shapes are static.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock, SBlockRealize, Schedule
from tvm.tirx import IterVar

from tvm_sched.kernels.rewrites.loops import worth_threads
from tvm_sched.targets import Target

REALIZE = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")
CHOICE = "prim.if_then_else"  # the call that computes nothing but picks one of two values


@dataclass(frozen=True)
class Axis:
    """One axis of a block, and the loop that runs over it."""

    loop: object  # LoopRV
    var: tirx.Var  # in the block
    extent: int
    reduced: bool


def blocks_of(sch: Schedule) -> list:
    """The blocks of the function, in order; none where its body is no list of blocks (a hand-written sort or scan)."""
    body = sch.mod[sch.func_working_on or "main"].body
    return sch.get_child_blocks(sch.get_sblock(body.block.name_hint)) if isinstance(body, SBlockRealize) else []


def without(block: SBlock, keys: Collection[str]) -> SBlock:
    """The block without these annotations."""
    rest = {key: value for key, value in block.annotations.items() if key not in keys}
    parts = (block.iter_vars, block.reads, block.writes, block.name_hint, block.body, block.init)
    return SBlock(*parts, block.alloc_buffers, block.match_buffers, rest)


def is_regular(sch: Schedule, block) -> bool:
    """Whether the block computes one element a step, in loops that are its axes one to one, and that no schedule has
    marked.
    """
    stmt, loops = sch.get(block), [sch.get(loop) for loop in sch.get_loops(block)]
    kinds = {axis.iter_type for axis in stmt.iter_vars}
    one_to_one = list(REALIZE(sch, block).iter_values)
    return (
        kinds <= {IterVar.DataPar, IterVar.CommReduce}
        and len(loops) == len(one_to_one)
        and not any(loop.annotations for loop in loops)
        and all(loop.loop_var.same_as(value) for loop, value in zip(loops, one_to_one, strict=True))
        and len(stmt.writes) == 1
        and isinstance(stmt.body, tirx.BufferStore)
        and (stmt.init is not None) == (IterVar.CommReduce in kinds)
        and (stmt.init is not None or not any(read.source.same_as(stmt.writes[0].source) for read in stmt.reads))
    )


def axes(sch: Schedule, block) -> list[Axis]:
    """The axes of a regular block, outermost first."""
    return [
        Axis(loop, axis.var, int(axis.dom.extent), axis.iter_type == IterVar.CommReduce)
        for loop, axis in zip(sch.get_loops(block), sch.get(block).iter_vars, strict=True)
    ]


def is_spatial(sch: Schedule, block) -> bool:
    """Nothing is summed: every output element is computed once."""
    return sch.get(block).init is None


def volume(sch: Schedule, block) -> int:
    """How often the block runs."""
    return prod(int(axis.dom.extent) for axis in sch.get(block).iter_vars)


def shared(sch: Schedule, blocks: Sequence, target: Target) -> bool:
    """Whether threads are to share blocks that mostly move data: a number read and one written a step."""
    steps = sum(volume(sch, block) for block in blocks)
    return worth_threads(2 * target.number_bytes * steps / target.costs.moved_bytes_per_cycle, target)


def output(sch: Schedule, block) -> tirx.Buffer:
    """The one buffer that a regular block writes."""
    return sch.get(block).writes[0].source


def variables(expr) -> set:
    """The variables in an expression."""
    found = set()
    tvm_ffi.structural_walk(expr, (tirx.Var, found.add), order="post")
    return found


def calls(sch: Schedule, block) -> set[str]:
    """Names of the functions that the block calls."""
    found = set()
    tvm_ffi.structural_walk(
        sch.get(block).body, (ir.Call, lambda call: found.add(getattr(call.op, "name", "extern"))), order="post"
    )
    return found


def loads(sch: Schedule, block) -> Counter:
    """How often the block's value loads from each buffer."""
    found: Counter = Counter()
    tvm_ffi.structural_walk(
        sch.get(block).body.value, (ir.TensorLoad, lambda load: found.update([load.source])), order="post"
    )
    return found


def copied_loads(sch: Schedule, block, reader) -> int:
    """The loads of the copies of `block` that its reader would hold, were it computed there; 1 for a single copy."""
    copies = loads(sch, reader)[output(sch, block)]
    return copies * loads(sch, block).total() if copies > 1 else 1


def moves_only(sch: Schedule, block) -> bool:
    """The block computes nothing: it copies, permutes, pads, concatenates or slices."""
    value = sch.get(block).body.value
    return is_spatial(sch, block) and not arithmetic(value)


def arithmetic(value) -> bool:
    """Whether a value is computed from others, rather than chosen among them. Arithmetic of indices does not count."""
    if isinstance(value, ir.Call) and value.op.name == CHOICE:
        return any(arithmetic(choice) for choice in value.args[1:])
    return not isinstance(value, (ir.TensorLoad, tirx.FloatImm, tirx.IntImm))


def reads_in_place(sch: Schedule, reader, block, count: int) -> bool:
    """Whether `reader` reads the output of `block`, where it does, at its own position in the first `count` axes."""
    written, own = output(sch, block), sch.get(reader).iter_vars
    regions = [read.region for read in sch.get(reader).reads if read.source.same_as(written)]
    return not regions or (
        min(len(own), len(written.shape)) >= count
        and all(
            int(axis.dom.extent) == int(size) and (int(size) == 1 or (where.min.same_as(axis.var) and is_point(where)))
            for region in regions
            for axis, where, size in list(zip(own, region, written.shape, strict=False))[:count]
        )
    )


def is_point(where: ir.Range) -> bool:
    """Whether a range holds one index. The extent of what is read at two places at once may be no number."""
    return isinstance(where.extent, tirx.IntImm) and int(where.extent) == 1


def conditions(sch: Schedule, block) -> list:
    """The conditions by which the block picks what it reads: where it pads, or concatenates."""
    found = []
    tvm_ffi.structural_walk(
        sch.get(block).body,
        (ir.Call, lambda call: found.append(call.args[0]) if getattr(call.op, "name", "") == CHOICE else None),
        order="post",
    )
    return found


def chosen_by(sch: Schedule, block) -> set:
    """The variables that the block's conditions depend on."""
    return set().union(*(variables(condition) for condition in conditions(sch, block)))


def compared_with(sch: Schedule, block, var: tirx.Var) -> list[int]:
    """The numbers in the comparisons of the block's conditions that involve `var`."""
    found = []

    def comparison(expr):
        if var in variables(expr):
            tvm_ffi.structural_walk(expr, (tirx.IntImm, lambda number: found.append(int(number))), order="post")

    for condition in conditions(sch, block):
        tvm_ffi.structural_walk(condition, ((tirx.LT, tirx.LE), comparison), order="post")
    return found
