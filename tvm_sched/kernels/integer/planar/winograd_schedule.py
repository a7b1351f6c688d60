"""The schedule of `planar_winograd`, the tiles worth trying, and what one costs.

Of a tile of the image and a block row, a few vectors of 2x2 tiles pass through all stages while they are in the first
cache: the products of the 16 positions, a register tile after the other, the outputs' transform, the rounding.
"""

from dataclasses import dataclass
from math import gcd

import numpy as np
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels import register_tile
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.integer.dots import sum_up
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar.planes import STORED, Layout, copy_padded, copy_whole, up
from tvm_sched.kernels.integer.planar.problem import INTERLEAVED, PLANES, PlanarProblem, problem_of
from tvm_sched.kernels.integer.planar.reading import points, schedule_reading
from tvm_sched.kernels.integer.planar.schedule import copy_cycles, interleave_cycles, step_cycles
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import prefetch_weights, split_lanes, unrolled_vector
from tvm_sched.kernels.rewrites.tir_blocks import moves_only
from tvm_sched.kernels.winograd_variants import Variant
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import LINE

F = Variant(2, 3)
NAME = "planar_winograd"  # the block of products; the other stages' blocks are named after what they make
STAGES = ("half_input", "input", "half_output", "output", "mixed", "residual", "rounded", "result")
RIGHT = 5  # axis of INPUT
HALF_INPUT, INPUT, HALF_OUTPUT, OUTPUT, MIXED, RESIDUAL, ROUNDED, RESULT = (f"{NAME}_{stage}" for stage in STAGES)


def row_of(layout: Layout) -> int:
    """Positions from one row of 2x2 tiles to the next: none is left between rows that are whole vectors, or of which
    so many are one, if the rows that fill up the last vector are read too; others lie as those of the pixels do.
    """
    width, lanes = layout.output[1], layout.lanes
    if width % lanes and lanes % width:
        return layout.pitch
    rows = up(layout.rows * width, lanes) // width
    last = (rows - 1) * layout.pitch + width - 1 + layout.offset(*(taps - 1 for taps in layout.kernel))
    return width if last < layout.reach else layout.pitch


def run_of(layout: Layout) -> int:
    """Positions that a tile computes: whole vectors."""
    return up((layout.rows - 1) * row_of(layout) + layout.output[1], layout.lanes)


@dataclass(frozen=True)
class PlanarWinogradTile:
    """In registers: `outputs` channels of a block by `vectors` of 2x2 tiles, at one of the positions; so many vectors
    pass through all stages together.
    """

    outputs: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.outputs} channels x {self.vectors} vectors of 2x2 tiles in registers"


def tiles(problem: PlanarProblem, target: Target, most: int = 16) -> list[PlanarWinogradTile]:
    """Tiles that fit the registers, cheapest first."""
    vectors = run_of(problem.layout) // problem.dot.lanes
    found = [
        PlanarWinogradTile(outputs, each)
        for outputs in divisors(problem.conv.n, problem.conv.n)
        for each in divisors(vectors, target.registers)
        if outputs * each + each + 2 <= target.registers
    ]

    def preference(tile: PlanarWinogradTile) -> tuple:
        return rounded(cycles(problem, tile, target)), abs(tile.outputs * tile.vectors - 16), -tile.vectors

    return sorted(found, key=preference)[:most]


def cycles(problem: PlanarProblem, tile: PlanarWinogradTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles on the target's cores."""
    conv, layout, dot, costs = problem.conv, problem.layout, problem.dot, target.costs
    positions, vectors, channels = F.size**2, layout.tiles * run_of(layout) // dot.lanes, conv.block_rows * conv.n

    # Products. A block row's weights are met again a few vectors later, all of them a tile of the image later.
    step = step_cycles(dot, tile.outputs, tile.vectors, target, fma_cycles)
    weights = positions * problem.groups * conv.n * dot.group * np.dtype(dot.w).itemsize
    if weights > costs.cache_share * target.l1_bytes:
        read = tile.outputs * dot.group * np.dtype(dot.w).itemsize
        step = register_tile.together(step, read / costs.l2_bytes_per_cycle)
    register_tiles = vectors // tile.vectors * positions * channels // tile.outputs
    product = register_tiles * (problem.groups * step + costs.tile_cycles)
    if conv.block_rows * weights > costs.cache_share * target.l2_bytes:
        product = register_tile.together(product, layout.tiles * conv.block_rows * weights / costs.far_bytes_per_cycle)

    moved = vectors * problem.groups * (conv.block_rows if conv.indexed else 1) * 2 * positions
    moved += vectors * channels * (positions + F.m**2)
    transforms = costs.transform_instructions * moved / target.fma_per_cycle**0.5
    stored = vectors * F.m**2 * channels * costs.buffered_store_cycles
    total = product + transforms + stored + interleave_cycles(problem, target) + copy_cycles(problem, target)
    return conv.batch * total * problem.busiest(target)


def schedule(sch: Schedule, tile: PlanarWinogradTile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it."""
    problem = problem_of(sch, NAME)
    conv, layout, dot = problem.conv, problem.layout, problem.dot
    planes, together, half_input, transformed, product, half_output, apart, mixed, residual, last, result = (
        find_block(sch, name)
        for name in (
            *(PLANES, INTERLEAVED, HALF_INPUT, INPUT, NAME, HALF_OUTPUT, OUTPUT),
            *(MIXED, RESIDUAL, ROUNDED, RESULT),
        )
    )
    step = tile.vectors * dot.lanes

    # 1. Outputs: tiles of rows, and of them block rows, whose rows are stored when all are there.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    if last is not None and not moves_only(sch, epilogue):
        for stage in (residual, last):
            if stage is not None:
                sch.compute_inline(stage)
        last = None
    image, o, h, w = sch.get_loops(epilogue)
    tiles, row, upper = sch.split(h, [None, layout.rows, F.m])
    block_row, n = sch.split(o, [None, conv.n])
    sch.reorder(image, tiles, block_row, n, row, upper, w)
    read_rows(sch, epilogue, MIXED if last is None else ROUNDED, problem)
    if moves_only(sch, epilogue):
        copy_whole(sch, w)
    else:
        split_lanes(sch, w, dot.lanes)

    # 2. What they are made of, a few vectors of tiles at a time: rounded, mixed, transformed.
    if last is not None:
        sch.compute_at(last, block_row, preserve_unit_loops=True)
        n, upper, i = sch.get_loops(last)[-3:]
        few, i = sch.split(i, [None, F.m * step])
        i, lane = sch.split(i, [None, gcd(F.m * step, STORED)])
        sch.reorder(few, n, upper, i, lane)
        unrolled_vector(sch, [upper, i, lane])
        if residual is not None:
            residual_in_rows(sch, residual, last, block_row, problem)
        sch.compute_at(mixed, few, preserve_unit_loops=True)
        n, upper, i = sch.get_loops(mixed)[-3:]
    else:
        sch.compute_at(mixed, block_row, preserve_unit_loops=True)
        n, upper, i = sch.get_loops(mixed)[-3:]
        few, i = sch.split(i, [None, F.m * step])
        sch.reorder(few, n, upper, i)
    vector, pixel, _ = sch.split(i, [None, dot.lanes, F.m])
    sch.reorder(n, vector, upper, pixel)
    sch.unroll(upper)
    interleave(sch, pixel)
    for stage in (apart, half_output):
        sch.compute_at(stage, vector, preserve_unit_loops=True)
        sch.set_scope(stage, 0, "local")
        unrolled_vector(sch, sch.get_loops(stage)[-3:])

    # 3. Products: of each position register tiles, each a sum over groups of channels.
    sch.compute_at(product, few, preserve_unit_loops=True)
    o, _, down, right, i, k, j = sch.get_loops(product)[-7:]
    o, output = sch.split(o, [None, tile.outputs])
    vector, pixel = sch.split(i, [None, dot.lanes])
    sch.reorder(down, right, o, k, output, vector, pixel, j)
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, o, preserve_unit_loops=True)
    output_stored, *_, i = sch.get_loops(sums)[-5:]
    unrolled_vector(sch, [output_stored, *sch.split(i, [None, dot.lanes])])

    # 4. What they read, once a tile, or where blocks keep channels of their own a tile and block row.
    sch.compute_at(transformed, block_row if conv.indexed else tiles, preserve_unit_loops=True)
    down, right, k_read, m = sch.get_loops(transformed)[-4:]
    m, lane = sch.split(m, [None, min(dot.lanes, row_of(layout)) * dot.group])
    sch.reorder(k_read, m, down, right, lane)
    unrolled_vector(sch, [down, right, lane])
    # The positions, which are written together, lie an odd number of cache lines apart: else they fall into one set.
    line = LINE // np.dtype(dot.x).itemsize
    sch.storage_align(transformed, 0, axis=RIGHT, factor=2 * line, offset=line)
    sch.compute_at(half_input, m, preserve_unit_loops=True)
    sch.set_scope(half_input, 0, "local")
    unrolled_vector(sch, sch.get_loops(half_input)[-3:])
    read_interleaved(sch, half_input, problem)
    sch.compute_at(together, k_read, preserve_unit_loops=True)
    schedule_reading(sch, together, planes, problem)

    # 5. Threads share tiles, and block rows where each reads channels of its own; or the two stages of a tile.
    if problem.shares_block_rows(target):
        sch.parallel(k_read)
        sch.parallel(block_row)
    else:
        sch.parallel(sch.fuse(image, tiles) if not conv.indexed else sch.fuse(image, tiles, block_row))
    prefetch_weights(sch, k)
    sum_up(sch, product, k, [vector], pixel, dot, output)
    finish(sch, target)


def read_rows(sch: Schedule, epilogue: SBlockRV, name: str, problem: PlanarProblem) -> None:
    """Lets the outputs ask block `name` for whole rows, up to whole vectors."""
    layout = problem.layout

    def rows(b, o, h, w):
        return *points(b * layout.tiles + h // (F.m * layout.rows), o), (0, F.m), (0, F.m * run_of(layout))

    annotate_read(sch, epilogue, name, rows)


def read_interleaved(sch: Schedule, half_input: SBlockRV, problem: PlanarProblem) -> None:
    """Lets the inputs' transform ask for all that is interleaved of a group of channels."""
    layout = problem.layout

    def whole(_, b, g, t, k, p, q, m):
        extents = (*layout.phases, layout.reach * problem.dot.group)
        return *points(0, b, g, t, k), *((0, extent) for extent in extents)

    sch.annotate_buffer_access(half_input, 0, "read", whole)


def residual_in_rows(sch: Schedule, residual: SBlockRV, last: SBlockRV, at: LoopRV, problem: PlanarProblem) -> None:
    """Copies a residual of whole rows to where the sums of its pixels lie, at the loop `at`."""
    pitch = F.m * row_of(problem.layout)
    extent = int(sch.get(sch.get_loops(residual)[-1]).extent)

    def rows(bt, o, r, i):
        return *points(bt, o, r), (0, extent)

    annotate_read(sch, last, RESIDUAL, rows)
    sch.compute_at(residual, at, preserve_unit_loops=True)
    _, column = sch.split(sch.get_loops(residual)[-1], [None, pitch])
    copy_padded(sch, column, 0, problem.conv.width)
