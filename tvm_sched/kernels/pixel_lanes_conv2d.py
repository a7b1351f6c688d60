"""1x1 convolution over 1xN blocks of few channels: lanes over pixels, since lanes over N would leave most of a vector
unused.

    V[b, v, c, i]         = x[b*Q + v*L + i, c]                                       input, transposed; L lanes
    M[b, v, g*N + l, i]   = sum_k data[g, k, l] * V[b, v, indices[g, k], i]           a vector of V is loaded once for N multiply-adds
    y[b*Q + v*L + i, o]   = M[b, v, o, i]                                             transposed back

`x [P, C]`, `data [G, K, 1, 1, N]`, `indices [G, K]` int32, `y [..., G*N]` of P rows, in bands of Q. Tiles of pixels
pass through all stages in cache; bias, residual and activation are applied with lanes over channels, as outputs are
stored. A band's last Q % L pixels are computed with lanes over N.
"""

from dataclasses import dataclass
from math import ceil, gcd, log, prod

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.direct_conv2d import flatten_pixels
from tvm_sched.kernels.register_tile import FLOAT, L2_BYTES_PER_CYCLE, Work, divisors
from tvm_sched.kernels.rewrites.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.rewrites.loops import partition, prefetch_weights
from tvm_sched.kernels.rewrites.transpose import COLS, ROWS, transpose
from tvm_sched.targets import Target

NAME = "pixel_lanes_conv2d"  # the block of products; the other stages' blocks are named after what they make
INPUT, OUTPUT, REST, RESULT = (f"pixel_lanes_{stage}" for stage in ("input", "output", "rest", "result"))
# Measured on Zen 4, for a vector: a transposition is bound by the way to L2 as much as by its shuffles.
TRANSPOSE_CYCLES, STORE_CYCLES, FAR_STORE_CYCLES = 5.5, 6, 10
STEP_CYCLES = 2.5  # of a step, besides what its multiply-adds take; likewise
NEON_TRANSPOSE_CYCLES, NEON_STORE_CYCLES = (
    2,
    3,
)  # by the pipes of a Cortex-A76: 4x4 numbers take 8 shuffles, 4 loads and 4 stores
BURST = 4  # vectors of pixels whose outputs the store buffer takes while multiplication goes on


def takes(pixels: int, channels: int, out_channels: int, n: int, target: Target) -> bool:
    """Whether the kernel can run a layer of `pixels` rows, and may gain: the image is a vector at least, and a block is
    `narrow`.
    """
    return narrow(n, target) and target.lanes <= pixels and channels % COLS == 0 and out_channels % max(n, COLS) == 0


def narrow(n: int, target: Target) -> bool:
    """Whether lanes over a block of `n` waste the machine: it is less than a vector, or no more where each pixel must
    be loaded for one FMA.
    """
    return n <= target.lanes if target.scalar_operand == "lane" else n < target.lanes


def bands_of(pixels: int, lanes: int) -> int:
    """Bands of a few vectors each that leave no more pixels over than the image does; one where it leaves none, and a
    tile can be any number.
    """
    if pixels % lanes == 0:
        return 1
    few = divisors(pixels, max(1, pixels // (3 * lanes)))
    return max(bands for bands in few if pixels // bands % lanes * bands == pixels % lanes)


def compute(x, data, indices=None, *, shape, lanes):
    """The algorithm, free of any order. `shape` is that of y; `lanes` pixels are a vector."""
    pixels, channels = (int(extent) for extent in x.shape)
    groups, kept, _, _, n = (int(extent) for extent in data.shape)
    bands = bands_of(pixels, lanes)
    length = pixels // bands  # Q
    vectors = length // lanes
    whole = vectors * lanes
    k = te.reduce_axis((0, kept), "k")

    def channel(o):
        return indices[o // n, k] if indices is not None else k

    def product(b, v, o, i):
        return te.sum(data[o // n, k, 0, 0, o % n] * transposed[0, b, v, channel(o), i], axis=k)

    def rest_product(b, p, o):
        return te.sum(data[o // n, k, 0, 0, o % n] * x[b * length + whole + p, channel(o)], axis=k)

    def result(*position):
        *axes, o = position
        p = sum(axis * prod(shape[i + 1 : -1]) for i, axis in enumerate(axes))
        b, p = (p // length, p % length) if bands > 1 else (0, p)
        return output[b, p, o] if rest is None else tirx.if_then_else(p < whole, output[b, p, o], rest[b, p - whole, o])

    work = Work(1, 1, pixels, channels, groups, kept, n, indexed=indices is not None)
    attributes = work.attributes() | {"pixel_lanes.lanes": lanes}
    # The first axis is for `annotate_buffer_access`, which wants as many axes of a buffer as of the block that reads
    # it.
    transposed = te.compute(
        (1, bands, vectors, channels, lanes), lambda _, b, v, c, i: x[b * length + v * lanes + i, c], name=INPUT
    )
    sums = te.compute((bands, vectors, groups * n, lanes), product, name=NAME, attrs=attributes)
    output = te.compute((bands, whole, groups * n), lambda b, p, o: sums[b, p // lanes, o, p % lanes], name=OUTPUT)
    rest = te.compute((bands, length - whole, groups * n), rest_product, name=REST) if length > whole else None
    return te.compute(shape, result, name=RESULT)


@dataclass(frozen=True)
class PixelTile:
    """`vectors` of pixels go through all stages together. In registers: `cols` of these vectors by `rows` channels of a
    block.
    """

    vectors: int
    cols: int
    rows: int

    def __str__(self):
        return f"{self.vectors} vectors of pixels, {self.cols} vectors x {self.rows} channels in registers"


def tiles(sch: Schedule, target: Target) -> list[PixelTile] | None:
    """The tiles worth trying for this function, best guess first; None if it is not this kernel's."""
    product = find_block(sch, NAME)
    if product is None:
        return None
    notes = sch.get(product).annotations
    return candidates(Work.of_block(notes), int(notes["pixel_lanes.lanes"]), target)


def candidates(work: Work, lanes: int, target: Target, most: int = 16) -> list[PixelTile]:
    """Tiles that fit the registers, cheapest estimate first. Where pixels are left over, a band's vectors are one tile."""
    vectors = work.width // lanes
    bands = bands_of(work.width, lanes)
    found = [
        PixelTile(each, cols, rows)
        for each in (divisors(vectors, vectors) if work.width % lanes == 0 else [vectors // bands])
        for rows in divisors(work.n, work.n)
        for cols in range(1, min(each, target.registers) + 1)
        if rows * cols + cols + 1 <= target.registers
    ]

    def preference(tile: PixelTile):
        """Estimates are rounded to 4 %; among equals sixteen sums hide all waiting and leave registers for addresses;
        then whole blocks.
        """
        return (
            round(log(cycles(work, lanes, tile, target)) / 0.04),
            abs(tile.rows * tile.cols - 16),
            -tile.rows,
            tile.vectors,
        )

    return sorted(found, key=preference)[:most]


def cycles(work: Work, lanes: int, tile: PixelTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the layer on the target's cores; `fma_cycles` as in `register_tile.cycles`."""
    vectors, rest = divmod(work.width, lanes)
    per_register = lanes / target.lanes  # 1, or less where lanes are fewer
    sums = tile.rows * tile.cols
    loads = tile.cols + tile.rows + 3  # vectors of pixels, weights, an index and what makes an address of it
    far = tile.vectors * work.channels * lanes * FLOAT > 0.75 * target.l1_bytes
    step = max(
        sums * per_register * (fma_cycles or 1 / target.fma_per_cycle),
        loads / target.loads_per_cycle,
        target.fma_latency,
        tile.cols * lanes * FLOAT / L2_BYTES_PER_CYCLE if far else 0,
    )
    load, store = TRANSPOSE_CYCLES, STORE_CYCLES if tile.vectors <= BURST else FAR_STORE_CYCLES
    if target.scalar_operand == "lane":
        load, store = NEON_TRANSPOSE_CYCLES, NEON_STORE_CYCLES
    else:
        step += STEP_CYCLES
    # A loop over the kept channels that ends costs about 20 cycles.
    register_tiles = vectors // tile.vectors * ceil(tile.vectors / tile.cols) * work.groups * work.n // tile.rows
    product = register_tiles * (work.kept * step + 20)
    transposition = vectors * (load * work.channels + store * work.groups * work.n)
    left = 0.0
    if rest:
        bands = bands_of(work.width, lanes)
        together = groups_together(work, rest // bands, target)
        step = max(rest // bands * together * 1.5 / target.loads_per_cycle, target.fma_latency)
        left = bands * work.groups / together * (work.kept * step + 20)
    shares = (
        vectors // tile.vectors
        if shares_tiles(work, lanes, tile, target)
        else work.groups * work.n // chunk_of(work, target)
    )
    return (product + transposition + left) / shares * ceil(shares / target.cores)


def shares_tiles(work: Work, lanes: int, tile: PixelTile, target: Target) -> bool:
    """Whether threads share the tiles of pixels; else they share each stage's work on them."""
    return work.width // lanes // tile.vectors >= target.cores


def chunk_of(work: Work, target: Target) -> int:
    """Output channels that are multiplied, then transposed and stored together: a vector."""
    return gcd(work.groups, max(1, target.lanes // work.n)) * work.n


def groups_together(work: Work, rest: int, target: Target) -> int:
    """Groups whose sums over the left pixels are in registers together: enough that an addition need not wait for the
    last.
    """
    groups = chunk_of(work, target) // work.n
    return gcd(groups, max(1, target.registers // 2 // rest))


def schedule(sch: Schedule, tile: PixelTile, target: Target):
    """Rewrites `compute`, and the elementwise chain fused behind it, into tiles of pixels that pass through all stages
    in cache.
    """
    transposed, product, output, rest, result = (find_block(sch, name) for name in (INPUT, NAME, OUTPUT, REST, RESULT))
    notes = sch.get(product).annotations
    work, lanes = Work.of_block(notes), int(notes["pixel_lanes.lanes"])
    bands = bands_of(work.width, lanes)
    chunk = chunk_of(work, target)
    shared = shares_tiles(work, lanes, tile, target)

    # 1. Outputs, a chunk of channels at a time: transposed back in registers; where pixels are left over, before they
    # are joined with those.
    epilogue = merge_epilogue(sch, result)
    flatten_pixels(sch, result, epilogue)
    sch.compute_inline(result)
    p, o = sch.get_loops(epilogue)
    band, p = sch.split(p, [bands, None] if rest else [None, tile.vectors * lanes])
    chunks, o = sch.split(o, [None, chunk])
    height = gcd(chunk, ROWS[-1])
    if rest:
        sch.reorder(band, chunks, p, o)
        sch.vectorize(o)
        partition(sch, p)
        sch.compute_at(output, chunks, preserve_unit_loops=True)
        *_, p, o = sch.get_loops(output)
        p, p_inner = sch.split(p, [None, COLS])
        o, o_inner = sch.split(o, [None, height])
        sch.reorder(p, o, p_inner, o_inner)
    else:
        p, p_inner = sch.split(p, [None, COLS])
        o, o_inner = sch.split(o, [None, height])
        sch.reorder(band, chunks, p, o, p_inner, o_inner)
        sch.unroll(p_inner)
        sch.vectorize(o_inner)
        sch.compute_at(output, o, preserve_unit_loops=True)
        sch.set_scope(output, 0, "local")
        *_, p_inner, _ = sch.get_loops(output)

    # 2. Products of a chunk, in register tiles. They may read any channel: what an index says is not known.
    reads = [read.source.name for read in sch.get(product).reads]
    sch.annotate_buffer_access(
        product,
        reads.index(INPUT),
        "read",
        lambda b, v, o, i, k: ((0, 1), (b, b + 1), (v, v + 1), (0, work.channels), (i, i + 1)),
    )
    sch.compute_at(product, chunks, preserve_unit_loops=True)
    if shared:
        sch.compute_at(transposed, band, preserve_unit_loops=True)
    *_, v, o, lane, k = sch.get_loops(product)
    group, row, row_inner = sch.split(o, [None, work.n // tile.rows, tile.rows])
    v, v_inner = sch.split(v, [None, tile.cols])
    sch.reorder(group, row, v, k, row_inner, v_inner, lane)
    in_registers(sch, product, v, [row_inner, v_inner, lane])
    if tile.vectors % tile.cols:
        partition(sch, v)
    if rest:
        sch.compute_at(rest, chunks, preserve_unit_loops=True)
        *_, p, o, rest_k = sch.get_loops(rest)
        group, lane = sch.split(o, [None, work.n])
        together = groups_together(work, work.width % lanes // bands, target)
        group, group_inner = sch.split(group, [None, together])
        sch.reorder(group, rest_k, group_inner, p, lane)
        in_registers(sch, rest, group, [group_inner, p, lane])

    # 3. Inputs, a vector of pixels by a cache line of channels at a time.
    *_, v, c, lane = sch.get_loops(transposed)
    width, rows = gcd(work.channels, 4 * COLS), gcd(lanes, ROWS[-1])
    c, c_inner = sch.split(c, [None, width])
    part, lane = sch.split(lane, [None, rows])
    sch.reorder(v, c, part, c_inner, lane)
    sch.tensorize(c_inner, transpose(rows, width, "global"))
    sch.tensorize(p_inner, transpose(height, COLS, "global" if rest else "local"))

    # 4. Threads.
    if shared:
        sch.parallel(band)
    else:
        sch.parallel(sch.fuse(v, c))
        sch.parallel(sch.fuse(band, chunks))
    prefetch_weights(sch, k)
    sch.decompose_reduction(product, k)
    if rest:
        sch.decompose_reduction(rest, rest_k)
    finish(sch, target)


def in_registers(sch: Schedule, product, loop, tile):
    """Sums in registers over the loops `tile`, the last of them a vector, stored at the end of each step of `loop`."""
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, loop, preserve_unit_loops=True)
    depth = len(sch.get_loops(product)) - 1 - len(tile)
    for loops in (tile, sch.get_loops(sums)[depth:]):
        *outer, lane = loops
        for each in outer:
            sch.unroll(each)
        sch.vectorize(lane)
