"""Any other function that Relax lowers: pools, means, softmax, norms, products of activations, copies, elementwise
chains.

There is no compute here, only rules by what a block is (`rewrites/tir_blocks.py`); nothing depends on an operator's
name:

1. A block that only moves data, or computes little, is computed where it is read.
2. A sum along the axis that is contiguous in memory (softmax, layer norm): a row at a time, all blocks of the function
   that work on the row in one loop, lanes along the row (`reduce_rows.py`).
3. A sum along other axes (pooling, mean over the image, matrix product, convolution): lanes along the output's
   contiguous axis, sums in registers, what follows elementwise on the sums fused in (`reduce_lanes.py`).
4. What is left sums nothing: lanes along the contiguous axis, threads over the others.

A block that none of this fits (a scan, a sort) stays as it is: correct by TVM's defaults.
"""

from math import gcd

from tvm.s_tir import Schedule

from tvm_sched.kernels.generic import reduce_lanes, reduce_rows
from tvm_sched.kernels.rewrites.loops import partition, split_lanes
from tvm_sched.kernels.rewrites.tir_blocks import (
    CHOICE,
    axes,
    blocks_of,
    calls,
    chosen_by,
    compared_with,
    copied_loads,
    is_point,
    is_regular,
    is_spatial,
    moves_only,
    shared,
    variables,
    volume,
)
from tvm_sched.targets import Target

MOST_COPIES = 32  # how often a reduction may read an element and still have its padding or slicing done while reading
MOST_LOADS = 32  # of copies of a block in one expression: y * sigmoid(y) has two, ten of them in a row 1024
MOST_PIECES = 64  # of a concatenation, each with code of its own
FREE = {CHOICE, "tirx.fabs", "tirx.floor", "prim.ceil"}  # calls that cost as little as an addition


def schedule(sch: Schedule, target: Target):
    """Schedules a whole function. One that has nothing to compute, of an extent of 0, stays as it is."""
    if not all(volume(sch, block) for block in blocks_of(sch)):
        return
    for block in blocks_of(sch):
        if not sch.get_loops(block):
            sch.add_unit_loop(block)  # TVM's rfactor fails beside a block without loops
    inline(sch)
    blocks = [block for block in blocks_of(sch) if is_regular(sch, block)]
    rows = reduce_rows.clusters(sch, blocks)
    for cluster in rows:
        reduce_rows.schedule(sch, cluster, target)
    done = {sch.get(block).name_hint for cluster in rows for block in cluster}
    for block in blocks:
        name = sch.get(block).name_hint
        if name in done:
            continue
        if is_spatial(sch, block):
            schedule_spatial(sch, block, target)
        else:
            epilogue = reduce_lanes.epilogue_of(sch, block)
            done |= {name} if epilogue is None else {name, sch.get(epilogue).name_hint}
            reduce_lanes.schedule(sch, block, epilogue, target)


def inline(sch: Schedule):
    """Computes blocks where they are read, if that costs little."""
    for block in blocks_of(sch):
        if is_regular(sch, block) and is_spatial(sch, block) and may_inline(sch, block):
            sch.compute_inline(block)


def may_inline(sch: Schedule, block) -> bool:
    """Whether readers may compute the block's elements themselves: it is no result of the function, and they do not do
    it too often.
    """
    readers = sch.get_consumers(block)
    stmt = sch.get(block)
    own = [axis.var for axis in stmt.iter_vars]
    in_order = len(stmt.body.indices) == len(own) and all(
        i.same_as(var) for i, var in zip(stmt.body.indices, own, strict=True)
    )
    if not readers or not in_order or not volume(sch, block) or not all(is_regular(sch, reader) for reader in readers):
        return False
    if any(copied_loads(sch, block, reader) > MOST_LOADS for reader in readers):
        return False
    repeats = sum(volume(sch, reader) for reader in readers) / volume(sch, block)
    if moves_only(sch, block):
        return repeats <= MOST_COPIES
    return repeats <= (2 if calls(sch, block) <= FREE else 1)


def schedule_spatial(sch: Schedule, block, target: Target):
    """Lanes along the contiguous axis, threads over the others."""
    every = axes(sch, block)
    last = max((i for i, axis in enumerate(every) if axis.extent > 1), default=len(every) - 1)
    across = read_along(sch, block, every, last)
    joined = joinable(sch, block, every, target.lanes) if across is None else 1
    if joined > 1:
        split_lanes(sch, sch.fuse(*(axis.loop for axis in every[len(every) - joined :])), target.lanes)
        last = len(every) - joined
    elif across is None:
        piece = uniform_piece(sch, block, every[last])
        pieces, inside = sch.split(every[last].loop, [None, piece])
        split_lanes(sch, inside, target.lanes)
        sch.unroll(pieces)
    else:
        transpose(sch, every[last], every[across], target)
    outer = [axis.loop for axis in every[: last if across is None else min(across, last)]]
    if outer and shared(sch, [block], target):
        sch.parallel(sch.fuse(*outer))


def joinable(sch: Schedule, block, every, lanes: int) -> int:
    """How many of the last axes become one loop, so that rows that fill no vectors (56 pixels, 16 lanes) are one long
    row: as many as it takes, of those that the block runs through as they lie in memory, and not all that threads have.
    """
    count, length = 1, every[-1].extent
    outer = next((i for i, axis in enumerate(every) if axis.extent > 1), 0)
    while length % lanes and len(every) - count - 1 > outer and runs_through(sch, block, every, count + 1):
        count, length = count + 1, length * every[-count - 1].extent
    return count


def runs_through(sch: Schedule, block, every, count: int) -> bool:
    """Whether what the block reads and writes lies in memory along its last `count` axes in their order, or does not
    depend on them.
    """
    own, extents = [axis.var for axis in every[-count:]], [axis.extent for axis in every[-count:]]
    stmt = sch.get(block)
    for region in (*stmt.reads, *stmt.writes):
        where, shape = list(region.region)[-count:], [int(extent) for extent in region.source.shape][-count:]
        in_order = shape == extents and all(
            is_point(index) and index.min.same_as(var) for index, var in zip(where, own, strict=True)
        )
        rest = list(region.region)[: -count if in_order else None]
        if set(own) & set().union(*(variables(index.min) | variables(index.extent) for index in rest)):
            return False
    return not set(own) & chosen_by(sch, block)


def uniform_piece(sch: Schedule, block, axis) -> int:
    """Pieces of the axis inside which the block makes the same choice, as in a concatenation: one if there is no
    choice, or too many pieces.
    """
    piece = gcd(axis.extent, *compared_with(sch, block, axis.var))
    return piece if axis.extent // piece <= MOST_PIECES else axis.extent


def read_along(sch: Schedule, block, every, last: int) -> int | None:
    """The axis along which the block reads memory contiguously, where that is another one than it writes along."""
    for read in sch.get(block).reads:
        *strided, contiguous = [set(), *(variables(where.min) for where in read.region)]
        if every[last].var not in contiguous and every[last].var in set().union(*strided):
            for i, axis in enumerate(every):
                if i != last and axis.var in contiguous and axis.extent > 1:
                    return i
    return None


def transpose(sch: Schedule, last, across, target: Target):
    """Squares of lanes x lanes, so that every cache line read is used while it is there. A few interleaved channels are
    written one by one.
    """
    if last.extent < target.lanes // 2:
        _, lane = split_lanes(sch, across.loop, target.lanes)
        sch.reorder(last.loop, lane)
        sch.unroll(last.loop)
        return
    squares, row = sch.split(across.loop, [None, min(target.lanes, across.extent)])
    vectors, lane = split_lanes(sch, last.loop, target.lanes)
    sch.reorder(squares, vectors, row, lane)
    if across.extent % target.lanes and across.extent > target.lanes:
        partition(sch, squares)
