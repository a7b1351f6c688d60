"""Reductions along the axis that is contiguous in memory, and what goes with them: softmax, layer norm, mean of a row.

    row by row:   m = max_k x[row, k];  e[k] = exp(x[row, k] - m);  s = sum_k e[k];  y[row, k] = e[k] / s

All blocks that work on a row are put into one loop over rows, so that a row is read from memory once; intermediate rows
live in L1. Inside, lanes run along the row; a reduction keeps one partial result a lane, and reduces the lanes at the
end of the row.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import inf

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.s_tir import Schedule

from tvm_sched.kernels.rewrites.loops import PARTITION, partition, split_lanes
from tvm_sched.kernels.rewrites.tir_blocks import (
    axes,
    is_spatial,
    output,
    reads_in_place,
    shared,
    variables,
)
from tvm_sched.targets import Target


def clusters(sch: Schedule, blocks: list) -> list[list]:
    """Runs of neighbouring blocks that share their rows, each run with at least one reduction along the row."""
    found, run = [], []
    for block in blocks:
        if not is_spatial(sch, block) and not reduces_contiguous(sch, block):
            found, run = [*found, run], []
            continue
        if run and common_axes(sch, [*run, block]) < row_axes(sch, [*run, block]):
            found, run = [*found, run], []
        run.append(block)
    return [run for run in [*found, run] if any(not is_spatial(sch, block) for block in run)]


def reduces_contiguous(sch: Schedule, block) -> bool:
    """Whether the block reduces along what is contiguous in an input, and writes along what is contiguous in none."""
    every = axes(sch, block)
    spatial = [axis for axis in every if not axis.reduced]
    along = set().union(*(variables(read.region[-1].min) for read in sch.get(block).reads if len(read.region)))
    written = [axis.var for axis in spatial if axis.extent > 1][-1:]
    return (
        not any(axis.reduced for axis in every[: len(spatial)])
        and any(axis.var in along for axis in every[len(spatial) :])
        and not any(var in along for var in written)
    )


def row_axes(sch: Schedule, run: list) -> int:
    """How many axes name a row: those that the reductions keep."""
    kept = [sum(not axis.reduced for axis in axes(sch, block)) for block in run if not is_spatial(sch, block)]
    return min(kept, default=1)


def common_axes(sch: Schedule, run: list) -> int:
    """How many leading axes all blocks of the run have in common: the same extents, and each row is made from the same
    row alone.
    """
    spatial = [[axis.extent for axis in axes(sch, block) if not axis.reduced] for block in run]
    count = 0
    while (
        all(len(extents) > count for extents in spatial)
        and len({extents[count] for extents in spatial}) == 1
        and all(reads_in_place(sch, reader, block, count + 1) for n, reader in enumerate(run) for block in run[:n])
    ):
        count += 1
    return count


def schedule(sch: Schedule, run: list, target: Target):
    """Puts a run of blocks into one loop over rows, lanes along the row."""
    count, worth_threads = row_axes(sch, run), shared(sch, run, target)
    rows, sums = [], []

    # 1. A reduction becomes two: one result a lane, then over the lanes. In each block: one loop over rows, and lanes
    # innermost.
    for block in run:
        parts = [block] if is_spatial(sch, block) else split_reduction(sch, block, target)
        for part in parts:
            loops = sch.get_loops(part)
            if count:
                rows.append(sch.fuse(*loops[:count]))
            if is_spatial(sch, part):
                if len(loops) > count:
                    split_lanes(sch, sch.fuse(*loops[count:]), target.lanes)
                continue
            if part is not block:
                sch.vectorize(loops[-1])
            sums.append((part, loops[-1 if part is block else -2]))

    # 2. One loop over rows for all, shared among threads.
    if count:
        row = sch.merge(*rows) if len(rows) > 1 else rows[0]
        if worth_threads:
            sch.parallel(row)

    # 3. The zeroing leaves the sums; but where the last vector is cut short TVM can't tell any more that the block is a
    # sum.
    for part, loop in sums:
        if PARTITION not in sch.get(loop).annotations:
            sch.decompose_reduction(part, loop)


def split_reduction(sch: Schedule, block, target: Target) -> list:
    """[one result a lane, result over the lanes] of a reduction; of a short one, or one to a single number, only
    itself.
    """
    every = axes(sch, block)
    reduced = [axis.loop for axis in every if axis.reduced]
    k = sch.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    extent = int(sch.get(k).extent)
    width = target.lanes * (4 if extent >= 16 * target.lanes else 1)
    if extent <= width or len(reduced) == len(every):  # TVM's rfactor wants an axis that stays
        return [block]
    outer, lane = sch.split(k, [None, width])
    if extent % width:
        partition(sch, outer)
    make_extremes_known()
    return [sch.rfactor(lane, len(output(sch, block).shape)), block]


@cache
def make_extremes_known() -> None:
    """Tells TVM of maxima and minima that begin with infinity (passes/graph/legalize.py): `rfactor` knows those alone
    that begin with the least number, or the largest.
    """
    register = tvm_ffi.get_global_func("s_tir.schedule.RegisterReducer")
    for word, extreme, first in (("greatest", tirx.max, -inf), ("least", tirx.min, inf)):

        def combined(left: Sequence[Expr], right: Sequence[Expr], extreme=extreme) -> list[Expr]:
            return [extreme(left[0], right[0])]

        def identity(values: Sequence[Expr], first=first) -> list[Expr]:
            return [tirx.const(first, values[0].ty.dtype)]

        register(1, _kept(f"subp.{word}.combined", combined), _kept(f"subp.{word}.identity", identity))


def _kept(name: str, function: Callable) -> tvm_ffi.Function:
    """TVM's form of a function of Python's that is never destroyed: TVM drops its reducers when the process ends, after
    Python has, and what is of Python's among them would crash then.
    """
    tvm_ffi.register_global_func(name, function)
    return tvm_ffi.get_global_func(name)
