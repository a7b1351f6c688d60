"""What the schedules of all kernels do with the blocks that fusion put around theirs."""

from collections.abc import Callable
from math import prod

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from tvm_sched.kernels.generic import rules
from tvm_sched.kernels.rewrites.tir_blocks import blocks_of, copied_loads, is_regular, is_spatial, output, volume
from tvm_sched.targets import Target


def find_block(sch: Schedule, name: str) -> SBlockRV | None:
    """The block of that name, or None: a schedule answers for its own kernel only."""
    for block in blocks_of(sch):
        if sch.get(block).name_hint == name:
            return block
    return None


def annotate_read(sch: Schedule, block: SBlockRV, name: str, region: Callable) -> None:
    """Says which part of buffer `name`, as a function of the block's axes, each step of the block asks for."""
    names = [read.source.name for read in sch.get(block).reads]
    sch.annotate_buffer_access(block, names.index(name), "read", region)


def downstream(sch: Schedule, block: SBlockRV) -> list[SBlockRV]:
    """The blocks that read `block`, directly or through others, in the order of the program."""
    return reached(sch, block, sch.get_consumers)


def upstream(sch: Schedule, block: SBlockRV) -> list[SBlockRV]:
    """The blocks that `block` reads, directly or through others, in the order of the program."""
    return reached(sch, block, sch.get_producers)


def reached(sch: Schedule, block: SBlockRV, neighbours: Callable) -> list[SBlockRV]:
    """The blocks, but for `block`, that repeated steps to neighbours reach from it, in the order of the program."""
    frontier, names = [block], {sch.get(block).name_hint}
    while frontier:
        for neighbour in neighbours(frontier.pop()):
            if sch.get(neighbour).name_hint not in names:
                names.add(sch.get(neighbour).name_hint)
                frontier.append(neighbour)
    names.discard(sch.get(block).name_hint)
    return [b for b in blocks_of(sch) if sch.get(b).name_hint in names]


def merge_epilogue(sch: Schedule, block: SBlockRV) -> SBlockRV:
    """Joins the elementwise chain that follows `block` (bias, residual, activation), with what the function computes
    for it besides, into one block, and returns that block.

    `block` then writes to registers ('local' scope) and the returned block alone writes to memory. What is larger than
    the result (an image that it scales, channel by channel) stays apart: `finish` schedules it. Raises ValueError for a
    chain that would make too large an expression, which is then taken apart.
    """
    size = prod(int(extent) for extent in output(sch, block).shape)
    *inner, last = [each for each in downstream(sch, block) if volume(sch, each) <= size] or [
        sch.cache_write(block, 0, "global")
    ]
    for each in inner:
        inline(sch, each)
    for each in operands(sch, last, block):
        inline(sch, each)
    sch.set_scope(block, 0, "local")
    return last


def inline(sch: Schedule, block: SBlockRV) -> None:
    """Computes a block where it is read. Raises ValueError where that would be too often in one expression."""
    if any(copied_loads(sch, block, reader) > rules.MOST_LOADS for reader in sch.get_consumers(block)):
        raise ValueError(f"too long an epilogue: {sch.get(block).name_hint} would be computed too often")
    sch.compute_inline(block)


def operands(sch: Schedule, epilogue: SBlockRV, block: SBlockRV) -> list[SBlockRV]:
    """What the function computes for the epilogue alone, as 0.5 x in 0.5 x + linear(x), element by element."""
    kernel = {sch.get(each).name_hint for each in (block, *upstream(sch, block))}
    beside = [each for each in upstream(sch, epilogue) if sch.get(each).name_hint not in kernel]
    return [each for each in beside if is_regular(sch, each) and is_spatial(sch, each)]


def finish(sch: Schedule, target: Target) -> None:
    """Schedules what a kernel has left of its function."""
    rules.schedule(sch, target)
