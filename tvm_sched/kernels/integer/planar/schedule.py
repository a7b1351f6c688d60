"""The schedule of `planar_conv2d`, the tiles worth trying, and what one costs."""

from dataclasses import dataclass
from math import gcd, prod

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels import register_tile
from tvm_sched.kernels.direct_conv2d import transform_axes
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.integer.dots import Dot, Summing, arithmetic_cycles, sum_up
from tvm_sched.kernels.integer.planar import outputs
from tvm_sched.kernels.integer.planar.outputs import OutputsTile
from tvm_sched.kernels.integer.planar.planes import STORED, Layout, copy_padded, copy_whole, divided, read_whole_runs
from tvm_sched.kernels.integer.planar.problem import (
    INTERLEAVED,
    NAME,
    PLANES,
    RESIDUAL,
    RESULT,
    ROUNDED,
    TURNED,
    PlanarProblem,
    problem_of,
)
from tvm_sched.kernels.integer.planar.reading import points, schedule_reading
from tvm_sched.kernels.integer.rounding import RANGES
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import keep_rolled, prefetch_weights, split_lanes, unrolled_vector
from tvm_sched.kernels.rewrites.tir_blocks import moves_only
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import LINE

UNROLLED_TAPS = 9  # of a kernel; the rows of a larger one are a loop
SHORT = 160  # dot products of a register tile that LLVM makes code without a loop of


@dataclass(frozen=True)
class PlanarTile:
    """In registers: `outputs` channels of a block by `vectors` of a tile's positions. Around them the tiles of the
    image, in each of which the block rows (`pixels_stay`), or the other way round.
    """

    outputs: int
    vectors: int
    pixels_stay: bool

    def __str__(self) -> str:
        order = "tiles of pixels" if self.pixels_stay else "block rows"
        return f"{self.outputs} channels x {self.vectors} vectors of pixels in registers, {order} outermost"


Tile = PlanarTile | OutputsTile


def tiles(problem: PlanarProblem, target: Target, most: int = 16) -> list[Tile]:
    """Tiles that fit the registers, cheapest first."""
    found: list[Tile] = outputs.tiles(problem, target) if problem.layout.single else of_pixels(problem, target)

    def preference(tile: Tile) -> tuple:
        first, vectors = (tile.outputs if isinstance(tile, PlanarTile) else tile.pixels), tile.vectors
        return rounded(cycles(problem, tile, target)), abs(first * vectors - 16), -vectors

    return sorted(found, key=preference)[:most]


def of_pixels(problem: PlanarProblem, target: Target) -> list[PlanarTile]:
    """Tiles with lanes over positions that fit the registers."""
    vectors = problem.layout.run // problem.dot.lanes
    return [
        PlanarTile(outputs, each, stay)
        for outputs in divisors(problem.conv.n, problem.conv.n)
        for each in divisors(vectors, target.registers)
        for stay in ((True, False) if problem.conv.indexed else (True,))
        if outputs * each + each + 2 + problem.dot.constants <= target.registers
    ]


def product_cycles(problem: PlanarProblem, tile: PlanarTile, target: Target, fma_cycles: float | None) -> float:
    """Of an image's register tiles with lanes over positions."""
    conv, layout, dot, costs = problem.conv, problem.layout, problem.dot, target.costs
    taps, step = prod(conv.kernel), step_cycles(dot, tile.outputs, tile.vectors, target, fma_cycles)
    # What a tile of the image, or a block row's weights, have more than the first cache comes from the second.
    near, second = costs.cache_share * target.l1_bytes, costs.l2_bytes_per_cycle
    pixels = dot.lanes * dot.group * np.dtype(dot.x).itemsize  # bytes of a vector
    weights = conv.n * dot.group * np.dtype(dot.w).itemsize  # of a step of all outputs, of which a tile reads some
    if problem.groups * prod(layout.phases) * layout.reach // dot.lanes * pixels > near:
        step = register_tile.together(step, tile.vectors * pixels / second)
    if problem.groups * taps * weights > near:
        step = register_tile.together(step, max(min(weights, LINE), weights * tile.outputs / conv.n) / second)
    register_tiles = layout.tiles * layout.run // dot.lanes // tile.vectors * conv.block_rows * conv.n // tile.outputs
    return register_tiles * (problem.groups * taps * step + costs.tile_cycles)


def step_cycles(dot: Dot, outputs: int, vectors: int, target: Target, fma_cycles: float | None) -> float:
    """Of a register tile of so many outputs by vectors of positions: the dot products of one group of channels."""
    costs, arithmetic = target.costs, arithmetic_cycles(dot, outputs * vectors, target, fma_cycles)
    loads = vectors / costs.vector_loads_per_cycle + outputs / costs.scalar_loads_per_cycle
    if fma_cycles:  # of the main loop as it is
        return max(arithmetic, loads)
    step = max(register_tile.together(arithmetic, dot.latency or target.fma_latency, 0.0), loads)
    return step * costs.weights_apart_factor if dot.outputs > 1 and outputs % dot.outputs else step


def interleave_cycles(problem: PlanarProblem, target: Target) -> float:
    """Of all channels of an image that are interleaved."""
    conv, layout, dot, costs = problem.conv, problem.layout, problem.dot, target.costs
    together = layout.tiles * problem.groups * prod(layout.phases) * layout.reach * dot.group * dot.number_bytes
    return together / (4 * dot.lanes) * costs.interleave_cycles * (conv.block_rows if conv.indexed else 1)


def copy_cycles(problem: PlanarProblem, target: Target) -> float:
    """Of an image's planes, where they are copied."""
    conv, layout, dot = problem.conv, problem.layout, problem.dot
    image = conv.channels * prod(layout.phases) * prod(layout.plane) * dot.number_bytes
    return 2 * image / target.costs.moved_bytes_per_cycle if layout.copied else 0.0


def cycles(problem: PlanarProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles on the target's cores."""
    conv, layout, dot, costs = problem.conv, problem.layout, problem.dot, target.costs
    if isinstance(tile, PlanarTile):
        product = product_cycles(problem, tile, target, fma_cycles)
    else:
        product = outputs.product_cycles(problem, tile, target, fma_cycles)
    taps = prod(conv.kernel)
    stored = layout.tiles * layout.run / dot.lanes * conv.block_rows * conv.n * store_cycles(problem, tile, target)
    weights = conv.block_rows * problem.groups * taps * conv.n * 4
    again = layout.tiles * weights / costs.l2_bytes_per_cycle if tile.pixels_stay and weights > target.l1_bytes else 0
    total = product + stored + interleave_cycles(problem, target) + again + copy_cycles(problem, target)
    return conv.batch * total * problem.busiest(target)


def store_cycles(problem: PlanarProblem, tile: Tile, target: Target) -> float:
    """Of a vector of sums that is rounded and stored."""
    if buffered(problem):
        return target.costs.buffered_store_cycles
    packed = isinstance(tile, PlanarTile) and tile.vectors * problem.dot.lanes % STORED == 0
    return target.costs.packed_store_cycles if packed else target.costs.integer_store_cycles


def buffered(problem: PlanarProblem) -> bool:
    """Whether a tile's sums go through memory: where outputs are no whole vectors of the run, or are turned over."""
    layout = problem.layout
    return not layout.flat or layout.single > 0 or layout.pixels % problem.dot.lanes > 0


def schedule(sch: Schedule, tile: Tile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it, into tiles of pixels."""
    problem = problem_of(sch)
    conv, layout, dot = problem.conv, problem.layout, problem.dot
    planes, together, product, turned, residual, rounded, result = (
        find_block(sch, name) for name in (PLANES, INTERLEAVED, NAME, TURNED, RESIDUAL, ROUNDED, RESULT)
    )
    through_memory = buffered(problem)
    turned_bytes = turned is not None and str(sch.get(turned).writes[0].source.dtype) in RANGES

    # 1. Outputs: tiles of pixels and block rows; in each the register tiles.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    if rounded is not None and not turned_bytes and not (through_memory and moves_only(sch, epilogue)):
        for stage in (residual, rounded):
            if stage is not None:
                sch.compute_inline(stage)
        rounded = None
    if layout.whole:
        transform_axes(sch, [epilogue], lambda b, o, h, w: [b, o, tirx.const(0, b.ty.dtype), h * conv.width + w])
    image, o, h, w = sch.get_loops(epilogue)
    if layout.whole:
        tiles, *pixels = sch.split(w, [None, layout.outputs])
    else:
        tiles, row = sch.split(h, [None, layout.rows])
        pixels = [row, w]
    block_row, n = sch.split(o, [None, conv.n])
    outer = [tiles, block_row] if tile.pixels_stay else [block_row, tiles]
    sch.reorder(image, *outer, n, *pixels)
    if not through_memory:
        in_registers(sch, product, n, pixels[0], tile, dot.lanes)
    elif rounded is None or turned_bytes:
        sums = product if turned is None else turned
        read_whole_runs(sch, epilogue, sch.get(sums).name_hint, layout, tile_first=turned is not None)
        sch.compute_at(sums, outer[-1], preserve_unit_loops=True)
        if turned_bytes and moves_only(sch, epilogue):
            copy_whole(sch, pixels[-1])
        else:
            split_lanes(sch, pixels[-1], dot.lanes)
    else:
        read_whole_runs(sch, epilogue, ROUNDED, layout)
        sch.compute_at(rounded, outer[-1], preserve_unit_loops=True)
        if residual is not None:
            residual_in_rows(sch, residual, rounded, outer[-1], layout)
        n, _, i = sch.get_loops(rounded)[-3:]
        if isinstance(tile, PlanarTile):
            in_registers(sch, product, n, i, tile, dot.lanes)
        else:
            sch.compute_at(turned, outer[-1], preserve_unit_loops=True)
            split_lanes(sch, i, gcd(layout.run, STORED))
        copy_whole(sch, pixels[-1])

    # 2. Products: register tiles, each a sum over groups of channels and the kernel's positions.
    if isinstance(tile, PlanarTile):
        summing = position_lanes(sch, product, tile, dot.lanes, stored=through_memory and rounded is None)
    else:
        first = rounded if turned_bytes else None
        summing = outputs.output_lanes(sch, problem, product, first, turned, outer[-1], tile)

    # 3. What they read: interleaved once a tile, or where blocks keep channels of their own a tile and block row.
    read_interleaved(sch, product, problem, whole=True)
    sch.compute_at(together, outer[-1] if conv.indexed else outer[0], preserve_unit_loops=True)
    read_interleaved(sch, product, problem, whole=False)
    *_, groups, _, _, _ = sch.get_loops(together)
    schedule_reading(sch, together, planes, problem)

    # 4. Threads; then the zeroing leaves the sum, and what is left of it is dot products.
    if problem.shares_block_rows(target):
        sch.parallel(groups)
        sch.parallel(block_row)
    else:
        sch.parallel(sch.fuse(image, outer[0]) if not conv.indexed else sch.fuse(image, *outer))
    if isinstance(tile, OutputsTile) and outputs.taps_are_steps(problem, tile, target):
        keep_rolled(sch, summing.column)
    else:
        if prod(conv.kernel) <= UNROLLED_TAPS:
            sch.unroll(summing.row)
        sch.unroll(summing.column)
    if isinstance(tile, PlanarTile) and is_short(problem, tile, target):
        keep_rolled(sch, summing.outermost)
    prefetch_weights(sch, summing.outermost)
    sum_up(sch, product, summing.outermost, summing.registers, summing.lane, dot, summing.output, turned is not None)
    finish(sch, target)


def position_lanes(sch: Schedule, product: SBlockRV, tile: PlanarTile, lanes: int, stored: bool) -> Summing:
    """Divides the sums into register tiles with lanes over positions; they are `stored` where nothing rounds them."""
    lane, _, i, k, r, q, j = sch.get_loops(product)[-7:]
    lane, output = sch.split(lane, [None, tile.outputs])
    i, vector, pixel = sch.split(i, [None, tile.vectors, lanes])
    sch.reorder(lane, i, k, r, q, output, vector, pixel, j)
    if stored:
        sums = sch.cache_write(product, 0, "local")
        sch.reverse_compute_at(sums, i, preserve_unit_loops=True)
        *_, output_stored, _, vector_stored = sch.get_loops(sums)
        vector_stored, pixel_stored = sch.split(vector_stored, [None, lanes])
        unrolled_vector(sch, [output_stored, vector_stored, pixel_stored])
    return Summing(k, r, q, [vector], pixel, output)


def residual_in_rows(sch: Schedule, residual: SBlockRV, rounded: SBlockRV, at: LoopRV, layout: Layout) -> None:
    """Copies a residual of whole rows to where a tile's sums lie, at the loop `at`."""
    extent = int(sch.get(sch.get_loops(residual)[-1]).extent)

    def run(*where):
        return (*((point, point + 1) for point in where[:-1]), (0, extent))

    annotate_read(sch, rounded, RESIDUAL, run)
    sch.compute_at(residual, at, preserve_unit_loops=True)
    column, width = sch.get_loops(residual)[-1], layout.outputs
    if not layout.whole:
        (_, column), width = sch.split(column, [None, layout.pitch]), layout.output[1]
    copy_padded(sch, column, 0, width)


def is_short(problem: PlanarProblem, tile: PlanarTile, target: Target) -> bool:
    """Whether LLVM would unroll a register tile's sum, though what it reads does not fit the registers beside it and
    each output's coefficient and bias.
    """
    steps, sums = problem.groups * prod(problem.conv.kernel), tile.outputs * tile.vectors
    return steps * sums <= SHORT and steps * tile.vectors + sums + 2 * tile.outputs > target.registers


def in_registers(sch: Schedule, product: SBlockRV, n: LoopRV, i: LoopRV, tile: PlanarTile, lanes: int) -> None:
    """Divides a block's loops over a block row's channels and a tile's positions into register tiles, in which its sums
    are computed.
    """
    n, output = sch.split(n, [None, tile.outputs])
    i, vector = sch.split(i, [None, tile.vectors * lanes])
    vector, lane = sch.split(vector, [None, gcd(tile.vectors * lanes, STORED)])
    sch.reorder(n, i, output, vector, lane)
    unrolled_vector(sch, [output, vector, lane])
    sch.compute_at(product, i, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")


def read_interleaved(sch: Schedule, product: SBlockRV, problem: PlanarProblem, whole: bool) -> None:
    """Lets the products ask for all that is interleaved for their tile, up to whole vectors; or again for what each
    reads.
    """
    layout, conv = problem.layout, problem.conv

    def region(b, *axes):
        if layout.single:
            row, i, _, k, r, q, j = axes
            row, t = divided(row, layout.tiles)
        else:
            o, t, i, k, r, q, j = axes
            row = o // conv.n
        place = points(0, b, row if conv.indexed else 0, t)
        if whole:
            extents = (problem.groups, *layout.phases, layout.reach * problem.dot.group)
            return (*place, *((0, extent) for extent in extents))
        position = layout.position(i) if layout.single else i
        return (*place, *points(k, *layout.phase(r, q), (position + layout.offset(r, q)) * problem.dot.group + j))

    annotate_read(sch, product, INTERLEAVED, region)
