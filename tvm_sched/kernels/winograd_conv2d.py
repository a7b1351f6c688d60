"""Winograd convolution over 1xN blocks: r x r kernels of stride 1, NHWC, past what direct convolution can reach.

F(m, r) computes an m x m tile of outputs from an e x e tile of inputs, e = m + r - 1, with e*e multiplications a
channel instead of r*r * m*m (Lavin and Gray, arXiv 1509.09308). Its transforms act on each kernel alone, so a pruned
block stays pruned, and between the transforms stand e*e small block-sparse products, each the 1x1 kernel of
`direct_conv2d`. Strided layers come here by way of space-to-depth.

    V[i, j, t, c]       = B^T x[t] B                                        input tile t
    M[i, j, t, g*N + l] = sum_k U[i, j, g, k, l] * V[i, j, t, indices[g, k]]
    y[t]                = A^T M[:, :, t] A                                   output tile t

`x [B, H, W, C]`, `U [e, e, G, K, N]` = G w G^T (`transform_weight`, once), `indices [G, K]`, `y [B, H', W', G*N]`.
Bands of tiles pass through all three stages while they are in cache; padding is done as pixels are loaded, bias,
residual and activation as outputs are stored.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil, prod

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from subp_contract import pattern
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.base import (
    EXAMPLE_SIZES,
    MOST_STORED_ROUNDING,
    OPAQUE,
    Example,
    Form,
    Kernel,
    fusable_call,
    least_cycles,
    narrow_dtype,
    widened,
)
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.register_tile import IMMEDIATE, Tile
from tvm_sched.kernels.rewrites.loops import (
    apart,
    partition,
    prefetch_weights,
    share,
    sum_in_blocks,
    unrolled_vector,
)
from tvm_sched.kernels.winograd_variants import VARIANTS, Variant
from tvm_sched.targets import Target

NAME = "winograd_conv2d"  # the block of products; the other stages' blocks are named after what they make
PIXELS, HALF_INPUT, INPUT, HALF_OUTPUT, OUTPUT = (
    f"winograd_{stage}" for stage in ("pixels", "half_input", "input", "half_output", "output")
)
VARIANT, GRID = "winograd.form", "winograd.grid"  # attributes of that block
STAGES = 3  # of a band: input transform, products, output transform


@dataclass(frozen=True)
class WinogradProblem:
    """`products` of all tiles for one of the e*e positions, a 1x1 convolution with a pixel a tile; `grid` of tiles:
    (images, rows, columns).
    """

    products: ConvProblem
    variant: Variant
    grid: tuple[int, int, int]

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.products.attributes() | {VARIANT: self.variant.numbers, GRID: list(self.grid)}

    @staticmethod
    def of(conv: ConvProblem, variant: Variant) -> "WinogradProblem":
        """That of a convolution."""
        grid = (conv.batch, ceil(conv.height / variant.m), ceil(conv.width / variant.m))
        sizes = (conv.channels, conv.block_rows, conv.kept, conv.n)
        products = ConvProblem(1, 1, prod(grid), *sizes, indexed=conv.indexed, weights=conv.weights)
        return WinogradProblem(products, variant, grid)

    def band(self, rows: int) -> ConvProblem:
        """The products of a band of so many rows of tiles: a position's weights are met again a band later, as if the
        other positions' were more block rows.
        """
        block_rows = self.variant.size**2 * self.products.block_rows
        return replace(self.products, width=rows * self.grid[2], block_rows=block_rows)


def transform_weight(data: te.Tensor, g: te.Tensor) -> te.Tensor:
    """U `[e, e, G, K, N]` of packed blocks `data [G, K, r, r, N]`; `g [e, r]` is the variant's `weight` matrix.

    U is stored as the blocks are: of 16 bits it is rounded once more, which is what the products then read.
    """
    block_rows, kept, _, _, n = data.shape
    e, taps = g.shape
    r, s = te.reduce_axis((0, taps), "r"), te.reduce_axis((0, taps), "s")
    half = te.compute(
        (e, taps, block_rows, kept, n),
        lambda i, q, b, k, lane: te.sum(g[i, r] * widened(data[b, k, r, q, lane], g.dtype), axis=r),
        name="half_weight",
    )
    whole = te.compute(
        (e, e, block_rows, kept, n),
        lambda i, j, b, k, lane: te.sum(g[j, s] * half[i, s, b, k, lane], axis=s),
        name="whole_weight",
    )
    if data.dtype == g.dtype:
        return whole
    return te.compute(whole.shape, lambda *place: whole(*place).astype(data.dtype), name="stored_weight")


def compute(
    x: te.Tensor,
    weight: te.Tensor,
    indices: te.Tensor | None = None,
    *,
    variant: Variant,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `weight` is U; `padding` is (top, left, bottom, right);
    `marks` become attributes of the block of products."""
    m, lost = variant.m, variant.taps - 1
    batch, height, width, channels = x.shape
    e, _, block_rows, kept, n = (int(extent) for extent in weight.shape)
    top, left, bottom, right = padding
    out_height, out_width = height + top + bottom - lost, width + left + right - lost
    rows, cols = (out_height + m - 1) // m, (out_width + m - 1) // m  # of tiles
    count, number = batch * rows * cols, partial(tirx.const, dtype=x.dtype)

    def pixel(i, j, t, c):
        b, h, w = t // (rows * cols), t // cols % rows * m + i, t % cols * m + j
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, x[b, h - top, w - left, c], tirx.const(0, x.dtype))

    k = te.reduce_axis((0, kept), "k")

    def multiplied(i, j, t, o):
        channel = indices[o // n, k] if indices is not None else k
        return te.sum(widened(weight[i, j, o // n, k, o % n], x.dtype) * transformed[0, i, j, t, channel], axis=k)

    def half_input(i, j, t, c):
        return pick(i, variant.input([pixels[r, j, t, c] for r in range(e)], number))

    def whole_input(_, i, j, t, c):
        return pick(j, variant.input([half[i, q, t, c] for q in range(e)], number))

    def half_output(i, j, t, o):
        return pick(i, variant.output([sums[r, j, t, o] for r in range(e)], number))

    def whole_output(b, h, w, o):
        t = b * (rows * cols) + h // m * cols + w // m
        return pick(w % m, variant.output([half_out[h % m, q, t, o] for q in range(e)], number))

    out_channels = block_rows * n
    sizes = (int(channels), block_rows, kept, n)
    products = ConvProblem(1, 1, int(count), *sizes, indexed=indices is not None, weights=narrow_dtype(weight, x))
    problem = WinogradProblem(products, variant, (int(batch), int(rows), int(cols)))
    attributes = problem.attributes() | (marks or {})
    pixels = te.compute((e, e, count, channels), pixel, name=PIXELS)
    half = te.compute((e, e, count, channels), half_input, name=HALF_INPUT)
    # The first axis is for `annotate_buffer_access`, which wants as many axes of a buffer as of the block that reads
    # it.
    transformed = te.compute((1, e, e, count, channels), whole_input, name=INPUT)
    sums = te.compute((e, e, count, out_channels), multiplied, name=NAME, attrs=attributes)
    half_out = te.compute((m, e, count, out_channels), half_output, name=HALF_OUTPUT)
    return te.compute((batch, out_height, out_width, out_channels), whole_output, name=OUTPUT)


def pick(index: tirx.Var, values: list) -> relax.Expr:
    """values[index]; once the loop over `index` is unrolled, nothing is left of the choice."""
    chosen = values[-1]
    for i in reversed(range(len(values) - 1)):
        chosen = tirx.Select(index == i, values[i], chosen)
    return chosen


@dataclass(frozen=True)
class WinogradTile:
    """`rows` of tiles a band, and the register tile of the products: `cols` tiles by `block_rows`."""

    rows: int
    cols: int
    block_rows: int

    def __str__(self) -> str:
        return f"{self.rows} tile rows a band, {self.cols} tiles x {self.block_rows} block rows"


def problem_of(sch: Schedule) -> WinogradProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, NAME)).annotations
    images, rows, columns = map(int, notes[GRID])
    return WinogradProblem(ConvProblem.of_block(notes), Variant.of_numbers(notes[VARIANT]), (images, rows, columns))


@lru_cache(maxsize=1 << 12)
def tiles(problem: WinogradProblem, target: Target, most: int = 24) -> list[WinogradTile]:
    """Bands and register tiles, cheapest estimate first."""
    found, one_core = [], replace(target, cores=1)
    for rows in divisors(problem.grid[1], problem.grid[1]):
        band = problem.band(rows)
        for tile in register_tile.candidates(band, one_core, most=8, among=problem.products.block_rows):
            found.append(WinogradTile(rows, tile.cols, tile.block_rows))
    return cheapest(found, problem.products, partial(cycles, problem, target=target), target)[:most]


def cheapest(
    found: Iterable[WinogradTile], products: ConvProblem, cost: Callable[[WinogradTile], float], target: Target
) -> list[WinogradTile]:
    """The distinct tiles of the `products`, those of least `cost` in cycles first, and of equal ones the handiest."""

    def preference(tile: WinogradTile) -> tuple:
        register = Tile(1, tile.cols, tile.block_rows, 1)
        return rounded(cost(tile)), *register_tile.handiness(products, register, target), tile.rows

    return sorted(dict.fromkeys(found), key=preference)


def cycles(problem: WinogradProblem, tile: WinogradTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the whole convolution on the target's cores, without the one launch of threads that every
    kernel makes; `fma_cycles` as in `register_tile.cycles`.
    """
    products, grid, costs = problem.products, problem.grid, target.costs
    bands, tiles_in_band = grid[0] * grid[1] // tile.rows, tile.rows * grid[2]
    register, one_core = Tile(1, tile.cols, tile.block_rows, 1), replace(target, cores=1)
    first, product = (
        register_tile.cycles(problem.band(tile.rows), register, replace(one_core, network_bytes=read), fma_cycles)
        for read in (target.network_bytes, 0)
    )
    numbers = problem.variant.size**2 * tiles_in_band * (products.channels + products.block_rows * products.n)
    # From beyond L2 a transform waits for its numbers as well, which are read and written.
    transforms = costs.transform_instructions * numbers / target.lanes / target.fma_per_cycle**0.5
    far = (
        2 * numbers * target.number_bytes / costs.l2_bytes_per_cycle
        if numbers * target.number_bytes > target.l2_bytes
        else 0
    )
    if bands >= target.cores:
        return first - product + (product + transforms + far) * ceil(bands / target.cores)
    # The threads share the stages of each band: positions by block rows, tiles by vectors of channels.
    vectors = ceil(products.channels / target.lanes)
    shared = product * share(problem.variant.size**2 * products.block_rows // tile.block_rows, target.cores)
    shared += (transforms + far) * share(tiles_in_band * vectors, target.cores)
    return first - product + bands * shared + (STAGES * bands - 1) * target.barrier_cycles


def schedule(sch: Schedule, tile: WinogradTile, target: Target) -> None:
    """Rewrites `compute` and the elementwise chain fused behind it into bands that pass through all stages in cache."""
    pixels, half_input, transformed, product, half_output, output = (
        find_block(sch, name) for name in (PIXELS, HALF_INPUT, INPUT, NAME, HALF_OUTPUT, OUTPUT)
    )
    problem = problem_of(sch)
    variant, grid, n_block = problem.variant, problem.grid, problem.products.n
    shared_bands = grid[0] * grid[1] // tile.rows >= target.cores  # else the threads share each stage of a band

    # 1. Outputs: bands of rows of tiles; a tile's outputs, a vector of channels at a time, are transformed and stored
    # from registers.
    epilogue = merge_epilogue(sch, output)
    image, h, w, o = sch.get_loops(epilogue)
    row, i = sch.split(h, [None, variant.m])
    band, row = sch.split(row, [None, tile.rows])
    col, j = sch.split(w, [None, variant.m])
    vector, lane = sch.split(o, [None, target.lanes])
    sch.reorder(image, band, row, col, vector, i, j, lane)
    unrolled_vector(sch, [i, j, lane])
    for block in (output, half_output):
        sch.compute_at(block, vector, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        unrolled_vector(sch, sch.get_loops(block)[5:])

    # 2. Products of a band: for each of the e*e positions, the register tile of `direct_conv2d`. They may read any
    # channel: what an index says is not known.
    annotate_read(
        sch,
        product,
        INPUT,
        lambda i, j, t, o, k: ((0, 1), (i, i + 1), (j, j + 1), (t, t + 1), (0, problem.products.channels)),
    )
    sch.compute_at(product, band, preserve_unit_loops=True)
    position_i, position_j, t, o, k = sch.get_loops(product)[2:]
    pixel, pixel_inner = sch.split(t, [None, tile.cols])
    block_row, n = sch.split(o, [None, n_block])
    block_row, block_row_inner = sch.split(block_row, [None, tile.block_rows])
    together = register_tile.channels_in_step(problem.products, target)
    k, piece, channel = sch.split(k, [None, *together])
    sch.reorder(position_i, position_j, block_row, pixel, k, piece, block_row_inner, pixel_inner, channel, n)
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, pixel, preserve_unit_loops=True)
    *store_loops, o = sch.get_loops(sums)[6:]
    block_row_store, n_store = sch.split(o, [None, n_block])
    unrolled_vector(sch, [*store_loops, block_row_store, n_store])
    unrolled_vector(sch, [piece, block_row_inner, pixel_inner, channel, n])
    if tile.rows * grid[2] % tile.cols:
        partition(sch, pixel)

    # 3. Inputs of a band: a tile's pixels, a vector of channels at a time, column by column, then row by row.
    sch.compute_at(transformed, band, preserve_unit_loops=True)
    i, j, t, c = sch.get_loops(transformed)[3:]
    channel, lane = sch.split(c, [None, target.lanes])
    sch.reorder(t, channel, i, j, lane)
    unrolled_vector(sch, [i, j, lane])
    sch.compute_at(half_input, channel, preserve_unit_loops=True)
    sch.set_scope(half_input, 0, "local")
    i, j, *rest = sch.get_loops(half_input)[5:]
    sch.reorder(j, i)
    unrolled_vector(sch, [j, i, *rest])
    sch.compute_at(pixels, j, preserve_unit_loops=True)
    sch.set_scope(pixels, 0, "local")
    unrolled_vector(sch, sch.get_loops(pixels)[6:])

    # 4. The positions of a band, and its tiles, lie apart.
    spread(sch, transformed, sums, target=target)

    # 5. Threads share the bands, or the stages of each band.
    if shared_bands:
        sch.parallel(sch.fuse(image, band))
    else:
        sch.parallel(sch.fuse(t, channel))
        sch.parallel(sch.fuse(position_i, position_j, block_row))
        sch.parallel(sch.fuse(row, col, vector))
    prefetch_weights(sch, k)
    sum_in_blocks(sch, k, register_tile.MOST_PRODUCTS // prod(together), target)
    sch.decompose_reduction(product, k)
    finish(sch, target)


def spread(sch: Schedule, *blocks: SBlockRV, target: Target) -> None:
    """Places what the blocks write an odd number of cache lines apart, position by position and tile by tile: else
    whole columns of them fall into one set of the first cache.
    """
    for block in blocks:
        *_, position, tile, _ = range(len(sch.get(block).writes[0].source.shape))
        for axis in (position, tile):
            apart(sch, block, axis, target)


def with_weights_transformed(
    builder: relax.BlockBuilder, variant: Variant, weights: Sequence[relax.Expr]
) -> list[relax.Expr]:
    """`weights` of a layer as `compute` wants them. They are transformed by a call of its own, which `hoist_constants`
    moves to where the network is loaded.
    """
    data, *indices = weights
    g = relax.const(np.array(variant.weight, "float32"))
    names = {"primfunc_name_hint": "winograd_weight", "primfunc_attrs": OPAQUE}
    return [builder.emit_te(transform_weight, data, g, **names), *indices]


class WinogradConv2d(Kernel):
    """Takes square kernels of 3 to 5 taps and stride 1, with whole vectors of channels on both sides and whole blocks;
    strided ones after space-to-depth.
    """

    name = NAME
    dtypes = ("float32", "float16")
    examples = tuple(Example(n, sparse, 3) for n in EXAMPLE_SIZES for sparse in (True, False))
    after_space_to_depth = True

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        lanes, plain = target.lanes, layer.stride == layer.dilation == (1, 1)
        variants = [each.of_dtype(layer.dtype) for each in VARIANTS if layer.kernel == (each.taps, each.taps)]
        if not plain or layer.out_channels % lanes or (layer.channels % lanes and not layer.filled):
            return
        for n, variant, weights in itertools.product(pattern.SIZES, variants, layer.weight_types):
            rounding = variant.rounding_of(weights)
            if layer.out_channels % n or (weights and rounding > MOST_STORED_ROUNDING):
                continue
            conv = replace(layer.problem(n, weights), channels=ceil(layer.channels / lanes) * lanes)
            problem = WinogradProblem.of(conv, variant)
            told = (f"winograd {variant}", least_cycles(self, problem, target), variant.size)
            yield Form(self, layer, problem, n, *told, details=variant, rounding=rounding, weights=weights)

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        transformed, *indices = with_weights_transformed(builder, form.details, weights)
        options = {"variant": form.details, "padding": form.layer.padding, "marks": marks}
        return fusable_call(builder, NAME, compute, x, transformed, *indices, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def loop_key(self, problem: WinogradProblem, tile: WinogradTile) -> tuple:
        products = problem.products
        near = (tile.cols - 1) * products.channels <= IMMEDIATE
        return NAME, products.n, products.indexed, products.weights, tile.cols, tile.block_rows, near


KERNEL = WinogradConv2d()
