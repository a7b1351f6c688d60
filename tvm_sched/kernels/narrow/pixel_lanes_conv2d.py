"""1x1 convolution over 1xN blocks of few channels: lanes over pixels, since lanes over N would leave most of a vector
unused.

    V[v, c, i]         = x[v*L + i, c]                                  input, transposed; L lanes
    M[v, g*N + l, i]   = sum_k data[g, k, l] * V[v, indices[g, k], i]   a vector of V serves N multiply-adds
    y[v*L + i, o]      = M[v, o, i]                                     transposed back

`x [P, C]`, `data [G, K, 1, 1, N]`, `indices [G, K]` int32, `y [..., G*N]` of P rows. Tiles of pixels pass through all
stages in cache; bias, residual and activation are applied with lanes over channels, as outputs are stored. Behind the
last pixel vectors are filled up with that one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd, prod

from tvm import relax, te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from subp_contract import pattern
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.base import Example, Form, Kernel, fusable_call, least_cycles
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.direct_conv2d import flatten_pixels
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import partition, prefetch_weights, split_lanes, unrolled_vector
from tvm_sched.kernels.rewrites.transpose import COLS, ROWS, transpose
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import LINE

NAME = "pixel_lanes_conv2d"  # the block of products; the other stages' blocks are named after what they make
FILL, INPUT, OUTPUT, RESULT = (f"pixel_lanes_{stage}" for stage in ("fill", "input", "output", "result"))
SIZES = "pixel_lanes.sizes"  # attribute of that block
MOST_ADDED = 2  # vectors behind the last pixel, for tiles of other sizes
FEWEST_ROWS = 4  # channels that a vector of pixels in registers serves
BURST = 4  # vectors of pixels whose outputs the store buffer takes while multiplication goes on


@dataclass(frozen=True)
class PixelLanesProblem:
    """A 1x1 convolution of one row of pixels, `lanes` of which are a vector, filled up to so many `vectors`."""

    conv: ConvProblem
    lanes: int
    vectors: int

    @property
    def filled(self) -> bool:
        """Whether there are lanes behind the last pixel."""
        return self.vectors * self.lanes > self.conv.width

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.conv.attributes() | {SIZES: [self.lanes, self.vectors]}


def takes(pixels: int, channels: int, out_channels: int, n: int, target: Target) -> bool:
    """Whether the kernel can run a layer of `pixels` rows, and may gain: the image is a vector at least, and a block is
    `narrow`.
    """
    return narrow(n, target) and target.lanes <= pixels and channels % COLS == 0 and out_channels % max(n, COLS) == 0


def lane_counts(target: Target) -> tuple[int, ...]:
    """Pixels of a vector: as many as a register has lanes, or as a line of cache holds, so that none of a line is read
    for channels that are not kept.
    """
    line = LINE // target.number_bytes
    return (target.lanes, line) if target.lanes < line else (target.lanes,)


def narrow(n: int, target: Target) -> bool:
    """Whether lanes over a block of `n` may waste the machine: it is less than a vector, or no more, where each pixel
    is loaded for one multiply-add.
    """
    return n <= target.lanes


def compute(
    x: te.Tensor,
    data: te.Tensor,
    indices: te.Tensor | None = None,
    *,
    shape: tuple[int, ...],
    lanes: int,
    vectors: int | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `shape` is that of y; `lanes` pixels are a vector, and there are so many
    `vectors`, by default as few as hold all pixels; `marks` become attributes of the block of products.
    """
    pixels, channels = (int(extent) for extent in x.shape)
    block_rows, kept, _, _, n = (int(extent) for extent in data.shape)
    conv = ConvProblem(1, 1, pixels, channels, block_rows, kept, n, indexed=indices is not None)
    problem = PixelLanesProblem(conv, lanes, vectors or ceil(pixels / lanes))
    rows = problem.vectors * lanes
    k = te.reduce_axis((0, kept), "k")

    def channel(o):
        return indices[o // n, k] if indices is not None else k

    def product(v, o, i):
        return te.sum(data[o // n, k, 0, 0, o % n] * transposed[0, v, channel(o), i], axis=k)

    def result(*position):
        *axes, o = position
        return output[sum(axis * prod(shape[i + 1 : -1]) for i, axis in enumerate(axes)), o]

    attributes = problem.attributes() | (marks or {})
    if problem.filled:
        image, last = x, pixels - 1  # a condition, as `partition` takes it away where it is known, and no minimum

        def filled(p, c):
            return tirx.if_then_else(p < pixels, image[p, c], image[last, c])

        x = te.compute((rows, channels), filled, name=FILL)
    # The first axis is for `annotate_buffer_access`, which wants as many axes of a buffer as of the block that reads
    # it.
    transposed = te.compute((1, problem.vectors, channels, lanes), lambda _, v, c, i: x[v * lanes + i, c], name=INPUT)
    sums = te.compute((problem.vectors, block_rows * n, lanes), product, name=NAME, attrs=attributes)
    # More rows than anybody asks for: so they can be divided into bursts of any length.
    output = te.compute((2 * rows, block_rows * n), lambda p, o: sums[p // lanes, o, p % lanes], name=OUTPUT)
    return te.compute(shape, result, name=RESULT)


@dataclass(frozen=True)
class PixelTile:
    """`vectors` of pixels go through all stages together. In registers: `cols` of these vectors by `rows` channels of a
    block.
    """

    vectors: int
    cols: int
    rows: int

    def __str__(self) -> str:
        return f"{self.vectors} vectors of pixels, {self.cols} vectors x {self.rows} channels in registers"


def problem_of(sch: Schedule) -> PixelLanesProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, NAME)).annotations
    lanes, vectors = map(int, notes[SIZES])
    return PixelLanesProblem(ConvProblem.of_block(notes), lanes, vectors)


def tiles(problem: PixelLanesProblem, target: Target, most: int = 16) -> list[PixelTile]:
    """Tiles that fit the registers, cheapest first."""
    conv, lanes, vectors = problem.conv, problem.lanes, problem.vectors
    together = divisors(vectors, vectors)
    # From beyond the second cache a channel's vectors come one by one: they lie far apart.
    most_near = target.costs.cache_share * target.l2_bytes // (conv.channels * lanes * target.number_bytes)
    found = [
        PixelTile(each, cols, rows)
        for each in [each for each in together if each <= most_near] or together[:1]
        for rows in divisors(conv.n, conv.n)
        if rows >= min(conv.n, FEWEST_ROWS)
        for cols in range(1, min(each, target.registers) + 1)
        if (rows * cols + cols) * lanes // target.lanes + 1 <= target.registers
    ]

    def preference(tile: PixelTile) -> tuple:
        """Among equals sixteen sums hide all waiting and leave registers for addresses; then whole blocks."""
        sums = abs(tile.rows * tile.cols * lanes // target.lanes - 16)
        return rounded(cycles(problem, tile, target)), sums, -tile.rows, tile.vectors

    return sorted(found, key=preference)[:most]


def cycles(problem: PixelLanesProblem, tile: PixelTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the layer on the target's cores; `fma_cycles` as in `register_tile.cycles`."""
    conv, lanes, costs = problem.conv, problem.lanes, target.costs
    vectors = problem.vectors
    registers = lanes / target.lanes  # of a vector; less than one where lanes are fewer
    sums = tile.rows * tile.cols
    ports = target.loads_per_cycle
    # Vectors of pixels, and a weight for each channel.
    loads = tile.cols * ceil(registers) / min(ports, costs.vector_loads_per_cycle)
    loads += tile.rows / min(ports, costs.scalar_loads_per_cycle)
    loads += costs.index_loads / ports if conv.indexed else 0
    arithmetic = sums * registers * (fma_cycles or 1 / target.fma_per_cycle)
    # Of the next channels the same pixels are met again when the tile's others were; whole lines of them are read.
    number = target.number_bytes
    pixels = tile.cols * max(lanes * number, LINE)
    read = register_tile.transfer(pixels, tile.vectors * conv.channels * lanes * number, target)
    step = max(register_tile.together(arithmetic, target.fma_latency, read), loads)
    step += costs.lanes_step_cycles
    burst = burst_of(problem, tile)
    register_tiles = ceil(vectors / burst) * ceil(burst / tile.cols) * conv.block_rows * conv.n // tile.rows
    product = register_tiles * (conv.kept * step + costs.loop_cycles)
    rows_apart = tile.vectors * lanes * conv.block_rows * conv.n * number  # what stores are spread over
    store = costs.transposed_store_cycles
    store *= costs.set_overflow_factor if outputs_overflow_a_set(problem, tile, target) else 1
    store *= costs.set_overflow_factor if rows_apart > costs.cache_share * target.l2_bytes else 1
    transposition = vectors * (costs.transpose_cycles * conv.channels + store * conv.block_rows * conv.n)
    if problem.filled:  # of a single tile the last vector alone, of several each may be the last
        transposition += costs.copy_cycles * conv.channels * (vectors if vectors > tile.vectors else 1)
    if shares_tiles(problem, tile, target):
        shares = vectors // tile.vectors
    else:
        shares = conv.block_rows * conv.n // chunk_of(conv, target)
    return (product + registers * transposition) / shares * ceil(shares / target.cores)


def outputs_overflow_a_set(problem: PixelLanesProblem, tile: PixelTile, target: Target) -> bool:
    """Whether the lines that a chunk of outputs is stored to, one a pixel, hit one set of L1 more often than it has
    ways. As far apart as that, they lie in more pages than are at hand, too.
    """
    way = target.l1_bytes // target.l1_ways
    sets_hit = way // gcd(way, problem.conv.block_rows * problem.conv.n * target.number_bytes)
    return ceil(tile.vectors * problem.lanes / sets_hit) > target.l1_ways


def shares_tiles(problem: PixelLanesProblem, tile: PixelTile, target: Target) -> bool:
    """Whether threads share the tiles of pixels; else they share each stage's work on them."""
    return problem.vectors // tile.vectors >= target.cores


def chunk_of(conv: ConvProblem, target: Target) -> int:
    """Output channels that are multiplied, then transposed and stored together: a vector."""
    return gcd(conv.block_rows, max(1, target.lanes // conv.n)) * conv.n


def schedule(sch: Schedule, tile: PixelTile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it, into tiles of pixels that pass through all stages
    in cache.
    """
    fill, transposed, product, output, result = (find_block(sch, name) for name in (FILL, INPUT, NAME, OUTPUT, RESULT))
    problem = problem_of(sch)
    conv, lanes = problem.conv, problem.lanes
    chunk = chunk_of(conv, target)
    shared = shares_tiles(problem, tile, target)
    burst = burst_of(problem, tile)

    # 1. Outputs, a chunk of channels at a time, of it a burst of pixels, transposed back in registers.
    epilogue = merge_epilogue(sch, result)
    flatten_pixels(sch, result, epilogue)
    sch.compute_inline(result)
    p, o = sch.get_loops(epilogue)
    height = gcd(chunk, ROWS[-1])
    outer, p = sch.split(p, [None, min(tile.vectors * lanes, conv.width)])
    bursts, p, p_inner = sch.split(p, [None, burst * lanes // COLS, COLS])
    chunks, o, o_inner = sch.split(o, [None, chunk // height, height])
    sch.reorder(outer, chunks, bursts, p, o, p_inner, o_inner)
    sch.unroll(p_inner)
    sch.vectorize(o_inner)
    annotate_read(sch, epilogue, OUTPUT, lambda p, o: ((p // COLS * COLS, p // COLS * COLS + COLS), (o, o + 1)))
    sch.compute_at(output, o, preserve_unit_loops=True)
    sch.set_scope(output, 0, "local")
    *_, p_inner, _ = sch.get_loops(output)

    # 2. Products of a chunk, in register tiles. They may read any channel: what an index says is not known.
    annotate_read(sch, product, INPUT, lambda v, o, i, k: ((0, 1), (v, v + 1), (0, conv.channels), (i, i + 1)))
    sch.compute_at(product, bursts, preserve_unit_loops=True)
    if shared:
        sch.compute_at(transposed, outer, preserve_unit_loops=True)
    *_, v, o, lane, k = sch.get_loops(product)
    block_row, row, row_inner = sch.split(o, [None, conv.n // tile.rows, tile.rows])
    v, v_inner = sch.split(v, [None, tile.cols])
    sch.reorder(block_row, row, v, k, row_inner, v_inner, lane)
    in_registers(sch, product, v, [row_inner, v_inner, lane])
    if burst % tile.cols:
        partition(sch, v)
    if conv.width % (burst * lanes):
        partition(sch, bursts)

    # 3. Inputs, a vector of pixels by a cache line of channels at a time.
    *_, v, c, lane = sch.get_loops(transposed)
    width, rows = gcd(conv.channels, 4 * COLS), gcd(lanes, ROWS[-1])
    c, c_inner = sch.split(c, [None, width])
    part, lane = sch.split(lane, [None, rows])
    sch.reorder(v, c, part, c_inner, lane)
    if fill:
        sch.compute_at(fill, part)
        sch.set_scope(fill, 0, "local")
        split_lanes(sch, sch.get_loops(fill)[-1], COLS)  # as they are transposed
        if shared:
            partition(sch, v)
    sch.tensorize(c_inner, transpose(rows, width, "global", source="local" if fill else "global"))
    sch.tensorize(p_inner, transpose(height, COLS, "local"))

    # 4. Threads.
    if shared:
        sch.parallel(outer)
    else:
        sch.parallel(sch.fuse(v, c))
        sch.parallel(sch.fuse(outer, chunks))
    prefetch_weights(sch, k)
    sch.decompose_reduction(product, k)
    finish(sch, target)


def burst_of(problem: PixelLanesProblem, tile: PixelTile) -> int:
    """Vectors of pixels of which a chunk of outputs is multiplied, then stored: whole register tiles, no more than the
    store buffer takes where these are not. Of several tiles each is divided evenly.
    """
    most = max(BURST // tile.cols, 1) * tile.cols
    if tile.vectors == problem.vectors:
        return min(tile.vectors, most)
    return max((each for each in divisors(tile.vectors, most) if each >= tile.cols), default=tile.vectors)


def in_registers(sch: Schedule, product: SBlockRV, loop: LoopRV, tile: list[LoopRV]) -> None:
    """Sums in registers over the loops `tile`, the last of them a vector, stored at the end of each step of `loop`."""
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, loop, preserve_unit_loops=True)
    depth = len(sch.get_loops(product)) - 1 - len(tile)
    for loops in (tile, sch.get_loops(sums)[depth:]):
        unrolled_vector(sch, loops)


class PixelLanesConv2d(Kernel):
    """Takes 1x1 convolutions without padding whose zeros are in narrow blocks; of a strided one the pixels that it
    reads are copied first.
    """

    name = NAME
    examples = (Example(4, True, 1),)

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        pixels = prod(layer.image)
        if layer.depthwise or layer.kernel != (1, 1) or any(layer.padding):
            return
        if layer.zeros is None or not narrow(layer.zeros.n, target):
            return
        copied = pixels * layer.channels / target.lanes if prod(layer.stride) > 1 else 0  # vectors
        for n in pattern.SIZES:
            if takes(pixels, layer.channels, layer.out_channels, n, target):
                conv = layer.problem(n)
                flat = ConvProblem(1, 1, pixels, conv.channels, conv.block_rows, conv.kept, n, indexed=conv.indexed)
                problem = best_filled(flat, target)
                total = least_cycles(self, problem, target) + target.costs.copy_cycles * copied
                yield Form(self, layer, problem, n, "pixel lanes", total, rank=1)

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        layer, shape = form.layer, [int(extent) for extent in x.ty.shape]
        if layer.stride != (1, 1):
            x = builder.emit(relax.op.strided_slice(x, [1, 2], [0, 0], shape[1:3], layer.stride))
        x = builder.emit(relax.op.reshape(x, (prod(layer.image), layer.channels)))
        options = {"shape": layer.output, "lanes": form.problem.lanes, "vectors": form.problem.vectors, "marks": marks}
        return fusable_call(builder, NAME, compute, x, *weights, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def loop_key(self, problem: PixelLanesProblem, tile: PixelTile) -> tuple:
        return NAME, problem.conv.n, problem.conv.indexed, problem.lanes, tile.cols, tile.rows


KERNEL = PixelLanesConv2d()


@lru_cache(maxsize=1 << 12)
def best_filled(conv: ConvProblem, target: Target) -> PixelLanesProblem:
    """The problem of this convolution in as many vectors, of as many lanes, as make the cheapest tiles; of equal ones
    in the fewest.
    """
    problems = [
        PixelLanesProblem(conv, lanes, ceil(conv.width / lanes) + added)
        for lanes in lane_counts(target)
        for added in range(MOST_ADDED + 1)
    ]
    return min(problems, key=lambda problem: rounded(least_cycles(KERNEL, problem, target)))
