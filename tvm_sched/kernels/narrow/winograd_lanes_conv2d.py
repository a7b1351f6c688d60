"""Winograd convolution over blocks narrower than a vector: lanes over N and over some tiles, side by side.

`winograd_conv2d` has lanes over N alone, of which narrow blocks leave most unused. Here `s` tiles of a row are
interleaved on their way in and pass through all stages together; lane q is channel q // s of tile q % s:

    V[i, j, p, q]       = B^T x[p*s + q % s, q // s] B
    M[i, j, p, g*N*s+q] = sum_k U[i, j, g, k, q // s] * V[i, j, p, indices[g, k]*s + q % s]
    y[p*s + q % s, q // s] = A^T M[:, :, p, q] A

so a block of N costs what one of N*s does there. A row of tiles is filled up to whole groups of s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from math import ceil, log2

from tvm import relax, te, tirx
from tvm.s_tir import Schedule

from subp_contract import pattern
from tvm_sched.kernels import register_tile, winograd_conv2d
from tvm_sched.kernels.base import Form, Kernel, fusable_call, least_cycles
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors
from tvm_sched.kernels.rewrites.interleave import TOGETHER, intrinsic
from tvm_sched.kernels.rewrites.loops import prefetch_weights, unrolled_vector
from tvm_sched.kernels.winograd_conv2d import GRID, VARIANT, WinogradProblem, WinogradTile, cheapest, pick
from tvm_sched.kernels.winograd_variants import VARIANTS, Variant
from tvm_sched.targets import Target

NAME = "winograd_lanes_conv2d"  # the block of products; the other stages' blocks are named after what they make
PIXELS, SIDE_BY_SIDE, HALF_INPUT, INPUT, PICKED, HALF_OUTPUT, WHOLE_OUTPUT, APART, OUTPUT = (
    f"winograd_lanes_{stage}"
    for stage in (
        "pixels",
        "side_by_side",
        "half_input",
        "input",
        "picked",
        "half_output",
        "whole_output",
        "apart",
        "output",
    )
)
SHUFFLES = 2  # rounds of a transposition, `rewrites/transpose.py`
MOST = 1 << 10  # register tiles that are looked at
TOGETHER_NOTE = "winograd.together"  # attribute of that block


@dataclass(frozen=True)
class WideBlocks(ConvProblem):
    """Products of blocks that stand `together` times in a vector, and once in memory."""

    together: int = 1

    @property
    def row_weights(self) -> int:
        return super().row_weights // self.together


@dataclass(frozen=True)
class LanesProblem:
    """`blocks`: what `winograd_conv2d` computes, of tiles filled up to whole groups of `together`."""

    blocks: WinogradProblem
    together: int

    @property
    def wide(self) -> WinogradProblem:
        """The same work as `winograd_conv2d` sees it: a group of tiles is a tile, of wider blocks."""
        products, (images, rows, columns), s = self.blocks.products, self.blocks.grid, self.together
        wide = WideBlocks(**vars(products) | {"width": products.width // s, "n": products.n * s}, together=s)
        return replace(self.blocks, products=wide, grid=(images, rows, columns // s))

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.blocks.attributes() | {TOGETHER_NOTE: self.together}

    @staticmethod
    def of(conv: ConvProblem, variant: Variant, together: int) -> "LanesProblem":
        """That of a convolution."""
        columns = ceil(ceil(conv.width / variant.m) / together) * together
        return LanesProblem(WinogradProblem.of(replace(conv, width=columns * variant.m), variant), together)


def compute(
    x: te.Tensor,
    weight: te.Tensor,
    indices: te.Tensor,
    *,
    variant: Variant,
    together: int,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order; arguments as of `winograd_conv2d.compute`, and `together` tiles in a vector."""
    m, s, lost = variant.m, together, variant.taps - 1
    batch, height, width, channels = (int(extent) for extent in x.shape)
    e, _, block_rows, kept, n = (int(extent) for extent in weight.shape)
    top, left, bottom, right = padding
    out_height, out_width = height + top + bottom - lost, width + left + right - lost
    conv = ConvProblem(batch, out_height, out_width, channels, block_rows, kept, n, indexed=True)
    problem = LanesProblem.of(conv, variant, s)
    _, rows, cols = problem.blocks.grid
    count, groups, wide = batch * rows * cols, batch * rows * cols // s, block_rows * n * s

    def pixel(i, j, t, c):
        b, h, w = t // (rows * cols), t // cols % rows * m + i, t % cols * m + j
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, x[b, h - top, w - left, c], tirx.const(0, x.dtype))

    k = te.reduce_axis((0, kept), "k")

    def multiplied(i, j, p, q):
        return te.sum(weight[i, j, q // (s * n), k, q // s % n] * picked[i, j, p, q // (s * n), k, q % s], axis=k)

    def half_input(i, j, p, q):
        return pick(i, variant.input([side_by_side[r, j, p, q] for r in range(e)]))

    def whole_input(_0, _1, i, j, p, q):
        return pick(j, variant.input([half[i, r, p, q] for r in range(e)]))

    def half_output(i, j, p, q):
        return pick(i, variant.output([sums[r, j, p, q] for r in range(e)]))

    def whole_output(i, j, p, q):
        return pick(j, variant.output([half_out[i, r, p, q] for r in range(e)]))

    def output(b, h, w, o):
        return taken_apart[h % m, w % m, b * (rows * cols) + h // m * cols + w // m, o]

    pixels = te.compute((e, e, count, channels), pixel, name=PIXELS)
    side_by_side = te.compute(
        (e, e, groups, channels * s), lambda i, j, p, q: pixels[i, j, p * s + q % s, q // s], name=SIDE_BY_SIDE
    )
    half = te.compute((e, e, groups, channels * s), half_input, name=HALF_INPUT)
    # The first axes are for `annotate_buffer_access`, as in `winograd_conv2d`.
    transformed = te.compute((1, 1, e, e, groups, channels * s), whole_input, name=INPUT)
    picked = te.compute(
        (e, e, groups, block_rows, kept, s),
        lambda i, j, p, g, k, t: transformed[0, 0, i, j, p, indices[g, k] * s + t],
        name=PICKED,
    )
    sums = te.compute((e, e, groups, wide), multiplied, name=NAME, attrs=problem.attributes() | (marks or {}))
    half_out = te.compute((m, e, groups, wide), half_output, name=HALF_OUTPUT)
    whole_out = te.compute((m, m, groups, wide), whole_output, name=WHOLE_OUTPUT)
    taken_apart = te.compute(
        (m, m, count, block_rows * n), lambda i, j, t, o: whole_out[i, j, t // s, o * s + t % s], name=APART
    )
    return te.compute((batch, out_height, out_width, block_rows * n), output, name=OUTPUT)


def problem_of(sch: Schedule) -> LanesProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, NAME)).annotations
    images, rows, columns = map(int, notes[GRID])
    variant = Variant.of_numbers(notes[VARIANT])
    return LanesProblem(
        WinogradProblem(ConvProblem.of_block(notes), variant, (images, rows, columns)), int(notes[TOGETHER_NOTE])
    )


@lru_cache(maxsize=1 << 12)
def tiles(problem: LanesProblem, target: Target, most: int = 24) -> list[WinogradTile]:
    """Bands and register tiles, cheapest estimate first. A tile's groups, `cols`, divide a band's: a multiply-add of
    vectors cannot be cut short.
    """
    wide = problem.wide
    found = [
        WinogradTile(rows, tile.cols, tile.block_rows)
        for rows in divisors(wide.grid[1], wide.grid[1])
        for tile in register_tile.candidates(
            wide.band(rows), replace(target, cores=1), MOST, among=wide.products.block_rows
        )
        if rows * wide.grid[2] % tile.cols == 0
    ]
    return cheapest(found, wide.products, partial(cycles, problem, target=target), target)[:most]


def cycles(problem: LanesProblem, tile: WinogradTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the whole convolution on the target's cores; `fma_cycles` as in `register_tile.cycles`.
    Pixels are put side by side as they are loaded, outputs taken apart before they are stored, in half the rounds of
    shuffles that a transposition takes, or as many. Those of several tiles are spread over a whole vector for
    each multiply-add.
    """
    wide, variant = problem.wide, problem.blocks.variant
    inputs = variant.size**2 * problem.blocks.products.channels
    outputs = variant.m**2 * wide.products.block_rows * problem.blocks.products.n
    vectors = problem.blocks.products.width * (inputs + outputs) / target.lanes
    shuffling = vectors * target.costs.transpose_cycles * log2(problem.together) / SHUFFLES
    if problem.blocks.products.n < target.lanes <= wide.products.n:
        shuffling += target.costs.spread_cycles * multiply_adds(problem, target)
    bands = wide.grid[0] * wide.grid[1] // tile.rows
    shares = ceil(bands / target.cores) / bands if bands >= target.cores else 1 / target.cores
    return winograd_conv2d.cycles(wide, tile, target, fma_cycles) + shuffling * shares


def multiply_adds(problem: LanesProblem, target: Target) -> float:
    """Of vectors, in all products."""
    products, positions = problem.wide.products, problem.blocks.variant.size**2
    return positions * products.width * products.block_rows * products.kept * products.n / target.lanes


def schedule(sch: Schedule, tile: WinogradTile, target: Target) -> None:
    """Rewrites `compute` and the elementwise chain fused behind it into bands that pass through all stages in cache."""
    pixels, side_by_side, half_input, transformed, picked, products, half_output, whole_output, apart, output = (
        find_block(sch, name)
        for name in (
            PIXELS,
            SIDE_BY_SIDE,
            HALF_INPUT,
            INPUT,
            PICKED,
            NAME,
            HALF_OUTPUT,
            WHOLE_OUTPUT,
            APART,
            OUTPUT,
        )
    )
    problem = problem_of(sch)
    variant, grid, n, s = problem.blocks.variant, problem.blocks.grid, problem.blocks.products.n, problem.together
    lanes, channels = target.lanes, problem.blocks.products.channels
    shared_bands = grid[0] * grid[1] // tile.rows >= target.cores  # else the threads share each stage of a band

    # 1. Outputs: bands of rows of tiles; a group of tiles, a vector of channels at a time, is transformed, taken apart
    # and stored from registers.
    epilogue = merge_epilogue(sch, output)
    sch.compute_inline(output)
    image, h, w, o = sch.get_loops(epilogue)
    row, i = sch.split(h, [None, variant.m])
    band, row = sch.split(row, [None, tile.rows])
    col, j = sch.split(w, [None, variant.m * s])
    vector, lane = sch.split(o, [None, lanes])
    sch.reorder(image, band, row, col, vector, i, j, lane)
    unrolled_vector(sch, [i, j, lane])
    for block in (apart, whole_output):
        sch.compute_at(block, vector, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    i, j, p, q = sch.get_loops(whole_output)[5:]
    part, lane = sch.split(q, [None, lanes])
    sch.reorder(p, part, i, j, lane)
    unrolled_vector(sch, [i, j, lane])
    sch.compute_at(half_output, part, preserve_unit_loops=True)
    sch.set_scope(half_output, 0, "local")
    unrolled_vector(sch, sch.get_loops(half_output)[7:])
    *outer, t, o = sch.get_loops(apart)[5:]
    for loop in outer:
        sch.unroll(loop)
    sch.tensorize(t, intrinsic("apart", lanes, s))

    # 2. Products of a band, in register tiles of groups of tiles. Their pixels may be of any channel: what an index
    # says is not known.
    annotate_read(
        sch,
        picked,
        INPUT,
        lambda i, j, p, g, k, t: ((0, 1), (0, 1), (i, i + 1), (j, j + 1), (p, p + 1), (0, channels * s)),
    )
    sch.compute_at(products, band, preserve_unit_loops=True)
    position_i, position_j, p, q, k = sch.get_loops(products)[2:]
    group, group_inner = sch.split(p, [None, tile.cols])
    block_row, product_lane = sch.split(q, [None, n * s])
    block_row, block_row_inner = sch.split(block_row, [None, tile.block_rows])
    sch.reorder(position_i, position_j, block_row, group, k, block_row_inner, group_inner, product_lane)
    sums = sch.cache_write(products, 0, "local")
    sch.reverse_compute_at(sums, group, preserve_unit_loops=True)
    *store_loops, q = sch.get_loops(sums)[6:]
    unrolled_vector(sch, [*store_loops, *sch.split(q, [None, lanes])])
    for loop in (block_row_inner, group_inner):
        sch.unroll(loop)
    sch.compute_at(picked, group_inner, preserve_unit_loops=True)
    sch.set_scope(picked, 0, "local")
    sch.vectorize(sch.get_loops(picked)[-1])

    # 3. Inputs of a band: a group's pixels, a vector of channels at a time, side by side; column by column, then row by
    # row.
    sch.compute_at(transformed, band, preserve_unit_loops=True)
    i, j, p, q = sch.get_loops(transformed)[4:]
    channel, part, lane = sch.split(q, [None, s, lanes])
    sch.reorder(p, channel, part, i, j, lane)
    unrolled_vector(sch, [i, j, lane])
    sch.compute_at(half_input, part, preserve_unit_loops=True)
    sch.set_scope(half_input, 0, "local")
    i, j, *rest = sch.get_loops(half_input)[7:]
    sch.reorder(j, i)
    unrolled_vector(sch, [j, i, *rest])
    sch.compute_at(side_by_side, channel, preserve_unit_loops=True)
    sch.set_scope(side_by_side, 0, "local")
    i, j, _, q = sch.get_loops(side_by_side)[6:]
    sch.compute_at(pixels, j, preserve_unit_loops=True)
    sch.set_scope(pixels, 0, "local")
    unrolled_vector(sch, sch.get_loops(pixels)[8:])
    sch.tensorize(q, intrinsic("interleave", lanes, s))

    # 4. The positions of a band, and its groups, lie apart.
    winograd_conv2d.spread(sch, transformed, sums, target=target)

    # 5. Threads share the bands, or the stages of each band. Then the zeroing leaves the sum, and its step becomes a
    # multiply-add of vectors.
    if shared_bands:
        sch.parallel(sch.fuse(image, band))
    else:
        sch.parallel(sch.fuse(p, channel))
        sch.parallel(sch.fuse(position_i, position_j, block_row))
        sch.parallel(sch.fuse(row, col, vector))
    prefetch_weights(sch, k)
    zeroing = sch.decompose_reduction(products, k)
    sch.vectorize(sch.get_loops(zeroing)[-1])
    sch.tensorize(product_lane, intrinsic("multiply_add", n, s))
    finish(sch, target)


def takes(conv: ConvProblem, out_channels: int, together: int, target: Target) -> bool:
    """Whether with so many tiles together, and no fewer, blocks fill a vector, or two where a scalar takes a register,
    or half of one where that is as fast and loads spread pixels better. An image of one row has no rows of a tile to
    speak of. Where scalars come from lanes, loads that spread pixels are not what the machine wants.
    """
    fewest = target.lanes // 2 if register_tile.halves_vectors(target) else target.lanes
    widest = {"memory": target.lanes, "register": 2 * target.lanes, "lane": 0}[target.scalar_operand]
    whole = conv.n > 1 and fewest <= conv.n * together <= widest and out_channels % conv.n == 0
    return whole and conv.indexed and min(conv.height, conv.width) > 1


class WinogradLanesConv2d(Kernel):
    """Takes what `winograd_conv2d` takes, in blocks narrower than its vectors."""

    name = NAME
    after_space_to_depth = True

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        lanes, plain = target.lanes, layer.stride == layer.dilation == (1, 1)
        if (
            not plain
            or layer.zeros is None
            or layer.out_channels % lanes
            or (layer.channels % lanes and not layer.filled)
        ):
            return
        variants = [each for each in VARIANTS if layer.kernel == (each.taps, each.taps)]
        for n, together, variant in product(pattern.SIZES, TOGETHER, variants):
            conv = replace(layer.problem(n), channels=ceil(layer.channels / lanes) * lanes)
            if not takes(conv, layer.out_channels, together, target):
                continue
            problem = LanesProblem.of(conv, variant, together)
            words = f"winograd {variant} over {together} tiles"
            told = (words, least_cycles(self, problem, target), variant.size + 1)
            yield Form(self, layer, problem, n, *told, details=(variant, together), rounding=variant.rounding)

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        """As `winograd_conv2d` does."""
        variant, together = form.details
        transformed, *indices = winograd_conv2d.with_weights_transformed(builder, variant, weights)
        options = {"variant": variant, "together": together, "padding": form.layer.padding, "marks": marks}
        return fusable_call(builder, NAME, compute, x, transformed, *indices, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def loop_key(self, problem: LanesProblem, tile: WinogradTile) -> tuple:
        return NAME, problem.together, *winograd_conv2d.KERNEL.loop_key(problem.wide, tile)


KERNEL = WinogradLanesConv2d()
