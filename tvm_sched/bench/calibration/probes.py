"""How each figure of `Costs` is worked out of cycles: which problems are timed, and which term of a kernel's estimate
their cycles leave when the others are taken away.

Most terms are found as differences (`trials.py`). Those of kernels of 8-bit integers: `integer_probes.py`.
"""

from dataclasses import replace
from math import prod

from subp_contract import pattern
from tvm_sched import runtime
from tvm_sched.bench.calibration import integer_probes, workloads
from tvm_sched.bench.calibration.trials import FEW, MANY, Probe, Trial, intercept, slope
from tvm_sched.bench.calibration.workloads import Workload
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.narrow import winograd_lanes_conv2d
from tvm_sched.kernels.narrow.pixel_lanes_conv2d import BURST, PixelTile
from tvm_sched.kernels.register_tile import Tile
from tvm_sched.kernels.winograd_conv2d import WinogradTile
from tvm_sched.kernels.winograd_variants import Variant
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import FLOAT, FLOAT32

NETWORK = 2**26  # bytes of weights of a large network, which no cache keeps until it is called again
LEAST_CYCLES = 1e-6  # a call that a disturbed core made no slower than arithmetic: a figure beyond all reason
FAR_CACHES = 6  # times the second cache: what only the third keeps

# What memory gives


def streaming(target: Target, size: float) -> Trial:
    """One pixel, so that each weight is read once: `size` bytes in all, in blocks of four vectors, as many block rows a
    tile as keep the pipes from bounding it.
    """
    n, kept, together = 4 * target.lanes, 256, target.registers // 8
    block_rows = max(1, int(size / (n * kept * FLOAT)) // together) * together
    work = workloads.direct(target, Tile(1, 1, together, 1), n=n, kept=kept, block_rows=block_rows)
    compute = register_tile.tile_cycles(work.problem, work.tile, target) * block_rows / together
    read = block_rows * kept * n * FLOAT
    return Trial([work], lambda cycles: read / max(register_tile.apart(cycles, compute), LEAST_CYCLES))


def streaming_far(target: Target) -> Trial | str:
    """Several times the second cache of weights, as much as an estimate takes the last one to keep."""
    most = target.costs.cache_share * target.last_cache_bytes / 2
    if most <= target.costs.cache_share * target.l2_bytes:
        return "no cache is beyond the second"
    return streaming(target, min(FAR_CACHES * target.l2_bytes, 0.9 * most))


def adding(target: Target) -> Trial:
    """Three arrays as large as the second cache each."""
    numbers = target.l2_bytes // FLOAT
    return Trial([workloads.addition(target, numbers)], lambda cycles: 3 * numbers * FLOAT / cycles)


def copying(target: Target) -> Trial:
    """An image like that of a strided 1x1 layer."""
    image, vectors = (14, 14), 8
    work = workloads.strided_copy(target, image=image, channels=vectors * target.lanes)
    return Trial([work], lambda cycles: cycles / (image[0] * image[1] * vectors))


def rearranging(target: Target) -> Trial:
    """A pixel is a vector of channels, four of them one of the deep image."""
    image = (28, 28)
    work = workloads.rearranging(target, image=image, channels=target.lanes)
    return Trial([work], lambda cycles: cycles / (image[0] * image[1] * 4))


def gathering(target: Target) -> Trial:
    """A stem's image of three channels, each a plane of its own, as a network gets it."""
    work = workloads.rearranging(target, image=(112, 112), channels=3, channels_first=True)
    return Trial([work], lambda cycles: cycles / work.arguments[-1].size)


# Register tiles

BLOCK_ROWS, TILES = 4, 2  # of a problem that stays in the first cache: block rows, and tiles of pixels
LEAST_ROWS = 8  # block rows in a tile of one pixel: two pipes of four cycles


def single_pixels(target: Target, indexed: bool) -> list[Workload]:
    """Tiles of one pixel by as many block rows of a vector as hide all waiting: a vector of weights a multiply-add."""
    block_rows, tile = LEAST_ROWS, Tile(1, 1, LEAST_ROWS, 1)
    return [
        workloads.direct(
            target,
            tile,
            n=target.lanes,
            kept=kept,
            block_rows=block_rows,
            image=(1, TILES),
            channels=2 * MANY if indexed else None,
        )
        for kept in (FEW, MANY)
    ]


def vectors(target: Target) -> Trial | str:
    """All channels kept, so that one scalar serves all block rows."""
    if target.fma_per_cycle < 2:
        return "one multiply-add a cycle takes no more than one vector"
    works = single_pixels(target, indexed=False)
    loads = register_tile.load_cycles(works[0].problem, works[0].tile, target)
    others = loads - LEAST_ROWS / min(target.loads_per_cycle, target.costs.vector_loads_per_cycle)
    return Trial(works, lambda few, many: LEAST_ROWS / (slope(few, many) / TILES - others))


def scalars(target: Target) -> Trial | str:
    """Blocks of half a vector, in the first cache: each multiply-add takes a scalar from there."""
    n, tile = target.lanes // 2, Tile(1, target.registers * 3 // 4, 1, 1)
    if n not in pattern.SIZES:
        return "no block is narrower than its vectors"
    works = [
        workloads.direct(target, tile, n=n, kept=kept, block_rows=BLOCK_ROWS, image=(1, TILES * tile.cols))
        for kept in (FEW, MANY)
    ]
    vector = 1 / min(target.loads_per_cycle, target.costs.vector_loads_per_cycle)
    return Trial(works, lambda few, many: tile.cols / (slope(few, many) / TILES / BLOCK_ROWS - vector))


def widening(target: Target, weights: str) -> Trial:
    """Blocks of a vector in the first cache, in tiles of half the registers: with 16-bit weights, and with float32."""
    tile = Tile(1, target.registers // 2, 1, 1)
    image = (1, TILES * tile.cols)
    works = [
        workloads.direct(target, tile, n=target.lanes, kept=kept, block_rows=BLOCK_ROWS, image=image, weights=dtype)
        for dtype in (weights, FLOAT32)
        for kept in (FEW, MANY)
    ]
    steps = TILES * BLOCK_ROWS
    return Trial(works, lambda *cycles: (slope(*cycles[:2]) - slope(*cycles[2:])) / steps)


def indices(target: Target) -> Trial | str:
    """An index for each block row of tiles of one pixel: what a step takes besides its weights and scalars. None where
    multiply-adds hide it.
    """
    if target.fma_per_cycle < 2:
        return "one multiply-add a cycle leaves the ports to them"
    works = single_pixels(target, indexed=True)

    def with_loads(count: float) -> float:
        costs = replace(target.costs, index_loads=count)
        return register_tile.load_cycles(works[0].problem, works[0].tile, replace(target, costs=costs))

    without, one = with_loads(0), with_loads(1) - with_loads(0)
    return Trial(works, lambda few, many: max(0.0, slope(few, many) / TILES - without) / one)


def overflowing(target: Target) -> Trial | str:
    """More pixels in a tile than a set has ways, a way's size apart; against pixels a line further apart. All channels
    are kept: else the pixels are bound by the way from the second cache.
    """
    ways, channels = target.l1_ways, target.l1_bytes // target.l1_ways // FLOAT
    cols = min(2 * ways, target.registers - 3)
    if cols <= ways:
        return f"no tile has more pixels than the first cache has ways, {ways}"
    sizes = {"n": target.lanes, "kept": channels, "block_rows": 4, "image": (1, 2 * cols)}
    apart = [workloads.direct(target, Tile(1, cols, 1, 1), channels=channels + more, **sizes) for more in (0, 16)]
    return Trial(apart, lambda overflowed, spread: overflowed / spread)


def banks(target: Target) -> Trial | str:
    """A step of 3x3 taps against one of 1x1, of the same tile with blocks of half a vector and one block row."""
    n, cols = target.lanes // 2, 8 if target.registers == 16 else 12
    if n not in pattern.SIZES:
        return "no block is narrower than its vectors"
    works = [
        workloads.direct(target, Tile(1, cols, 1, 1), n=n, kept=kept, block_rows=1, image=(4, cols), size=size)
        for size in (3, 1)
        for kept in (FEW, MANY)
    ]
    return Trial(works, lambda *cycles: slope(*cycles[:2]) / 9 / slope(*cycles[2:]))


def tiles_of(target: Target, sums: int) -> list[Workload]:
    """Blocks of a vector, tiles of so many sums."""
    image = (1, TILES * sums)
    return [
        workloads.direct(target, Tile(1, sums, 1, 1), n=target.lanes, kept=kept, block_rows=BLOCK_ROWS, image=image)
        for kept in (FEW, MANY)
    ]


def least_sums(target: Target) -> int:
    """So many that no step waits for the one before: where it does, the next tile begins meanwhile."""
    return target.fma_latency * target.fma_per_cycle


def outside(few: float, many: float) -> float:
    """Cycles of a tile of `tiles_of` outside its loop: `tile_cycles + store_cycles * sums`."""
    return intercept(few, many) / (BLOCK_ROWS * TILES)


def storing(target: Target) -> Trial | str:
    """Tiles of as many sums as leave a quarter of the registers, against tiles of the fewest. Nothing where the core
    stores beside the next tile's multiply-adds.
    """
    most, least = target.registers * 3 // 4, least_sums(target)
    if most <= least:
        return f"all tiles are small: {least} sums are needed to keep the pipes busy"
    return Trial(
        [*tiles_of(target, most), *tiles_of(target, least)],
        lambda *cycles: max(0.0, outside(*cycles[:2]) - outside(*cycles[2:])) / (most - least),
    )


def beginning(target: Target) -> Trial:
    """Tiles of few sums, without what it takes to store them; nothing where the core hides it behind other tiles."""
    sums = least_sums(target)
    stores = sums * target.costs.store_cycles
    return Trial(tiles_of(target, sums), lambda *cycles: max(0.0, outside(*cycles) - stores))


# Winograd

F43 = Variant(4, 3)
GRID_ROWS = 4  # bands


def transforming(target: Target) -> Trial:
    """One kept channel, so that next to nothing is multiplied; what that takes by estimate is taken away."""
    tile = WinogradTile(rows=1, cols=8, block_rows=1)
    work = workloads.winograd(target, tile, F43, grid=(GRID_ROWS, tile.cols), channels=2 * 16, kept=1)
    products = register_tile.cycles(work.problem.band(1), Tile(1, tile.cols, 1, 1), target)
    vectors = F43.size**2 * tile.cols * 2 * work.problem.products.channels / target.lanes
    return Trial([work], lambda cycles: (cycles / GRID_ROWS - products) / vectors * target.fma_per_cycle**0.5)


def spreading(target: Target) -> Trial | str:
    """A step of the products of Winograd with lanes over two tiles, without its multiply-adds or loads."""
    if target.scalar_operand == "lane":
        return "where scalars come from lanes tiles are not put side by side"
    tile = WinogradTile(1, 8, 1)
    works = [workloads.winograd_lanes(target, tile, F43, together=2, kept=kept) for kept in (FEW, MANY)]
    hidden = replace(target, costs=replace(target.costs, spread_cycles=0))
    bound = slope(*(work.kernel.cycles(work.problem, work.tile, hidden) for work in works if work.kernel))
    each = slope(*(winograd_lanes_conv2d.multiply_adds(work.problem, target) for work in works))
    return Trial(works, lambda *cycles: max(0.0, (slope(*cycles) - bound) / each))


# Lanes over pixels

N = 4  # the narrowest block
VECTORS = 48  # of pixels, in all
CHANNELS, OUTPUTS = 32, 48  # so few, and so far from powers of two, that a tile's pixels stay in the first cache


def register_cols(target: Target) -> int:
    """Vectors of pixels in registers, with `N` channels."""
    return 4 if target.registers == 32 else 2


def lanes(
    target: Target,
    *,
    kept: int,
    cols: int | None = None,
    channels: int = MANY,
    out_channels: int = OUTPUTS,
) -> Workload:
    """In tiles of a burst of vectors of pixels, `cols` of them in registers."""
    tile = PixelTile(BURST, cols or register_cols(target), N)
    sizes = {"pixels": VECTORS * target.lanes, "channels": channels, "out_channels": out_channels, "n": N}
    return workloads.pixel_lanes(target, tile, kept=kept, **sizes)


def lanes_pair(target: Target, **sizes: int) -> list[Workload]:
    """With FEW and with MANY kept channels."""
    return [lanes(target, kept=kept, **sizes) for kept in (FEW, MANY)]


def ending(target: Target) -> Trial:
    """Register tiles of half as many vectors against larger, fewer ones: else the same stands outside their loops.
    Nothing where the core foresees the ends.
    """
    cols = register_cols(target)
    fewer = VECTORS // cols * OUTPUTS // N
    return Trial(
        [*lanes_pair(target, cols=cols // 2), *lanes_pair(target, cols=cols)],
        lambda *cycles: max(0.0, intercept(*cycles[:2]) - intercept(*cycles[2:])) / fewer,
    )


def stepping(target: Target) -> Trial:
    """A step, without its multiply-adds or loads; none where it takes no longer than these."""
    cols = register_cols(target)
    steps = VECTORS // cols * OUTPUTS // N
    works = lanes_pair(target, cols=cols)
    hidden = replace(target, costs=replace(target.costs, lanes_step_cycles=0))
    bound = slope(*(work.kernel.cycles(work.problem, work.tile, hidden) for work in works if work.kernel))
    return Trial(works, lambda *cycles: max(0.0, (slope(*cycles) - bound) / steps))


def transposing(target: Target) -> Trial:
    """Twice the channels, of which no more are kept."""
    works = [lanes(target, kept=FEW, channels=channels) for channels in (2 * CHANNELS, CHANNELS)]
    return Trial(works, lambda twice, once: (twice - once) / (VECTORS * CHANNELS))


def transposing_back(target: Target) -> Trial:
    """Twice the outputs: what they take outside the loops, without these loops' ends."""
    pairs = [lanes_pair(target, out_channels=outputs) for outputs in (2 * OUTPUTS, OUTPUTS)]
    loops = target.costs.loop_cycles / (N * register_cols(target))
    return Trial(
        [work for pair in pairs for work in pair],
        lambda *cycles: (intercept(*cycles[:2]) - intercept(*cycles[2:])) / (VECTORS * OUTPUTS) - loops,
    )


# Threads


def launching(target: Target) -> Trial | str:
    """Two threads with next to nothing to do, against one, which does it without the other."""
    if runtime.most_threads() < 2:
        return "this process may use one thread"
    works = [workloads.launching(threads) for threads in (2, 1)]
    return Trial(works, lambda two, one: (two - one) / workloads.LAUNCHES)


def exchanging(target: Target) -> Trial | str:
    """Two threads that cut an image now by its pixels and now by its channels, of which each then has half of its share
    from the other; against two that always cut it alike.
    """
    if runtime.most_threads() < 2:
        return "this process may use one thread"
    works = [workloads.exchanging(target, by_channels=each) for each in (True, False)]
    foreign = workloads.EXCHANGES * prod(workloads.EXCHANGED) * FLOAT / 2  # bytes of a core, twice a quarter of them
    return Trial(works, lambda apart, alike: foreign / max(apart - alike, LEAST_CYCLES))


PROBES = (  # a probe stands behind those whose figures its own needs
    Probe(
        "l2_bytes_per_cycle", "`transfer` of weights, half the cache of them", lambda t: streaming(t, t.l2_bytes / 2)
    ),
    Probe("far_bytes_per_cycle", "`transfer` of weights, up to six times the second cache of them", streaming_far),
    Probe("memory_bytes_per_cycle", "weights in memory, 64 MiB of them", lambda t: streaming(t, NETWORK)),
    Probe("moved_bytes_per_cycle", "all of an addition", adding),
    Probe("copy_cycles", "all of a strided copy", copying),
    Probe("rearrange_cycles", "all of space-to-depth of whole vectors", rearranging),
    Probe("gather_cycles", "all of space-to-depth of an RGB image", gathering),
    Probe("vector_loads_per_cycle", "weights of a step, in tiles of one pixel", vectors),
    Probe("scalar_loads_per_cycle", "scalars of a step, in blocks of half a vector", scalars),
    Probe("widen_float16_cycles", "what float16 weights add to a step", lambda t: widening(t, "float16")),
    Probe("widen_bfloat16_cycles", "what bfloat16 weights add to a step", lambda t: widening(t, "bfloat16")),
    Probe("index_loads", "what else a step with indices loads", indices),
    Probe("set_overflow_factor", "the factor of a step", overflowing),
    Probe("bank_factor", "the factor of a step", banks),
    Probe("store_cycles", "what a sum adds to a register tile outside its loop", storing),
    Probe("tile_cycles", "what else a register tile takes outside its loop", beginning),
    Probe("transform_instructions", "the transforms of a band", transforming),
    Probe("spread_cycles", "what a multiply-add takes beside its bounds, lanes being two tiles", spreading),
    Probe("loop_cycles", "what a register tile takes outside its loop, lanes being pixels", ending),
    Probe("lanes_step_cycles", "what a step takes beside its bounds, lanes being pixels", stepping),
    Probe("transpose_cycles", "what an input channel adds that is not multiplied", transposing),
    Probe("transposed_store_cycles", "what an output adds outside loops", transposing_back),
    *integer_probes.PROBES,
    Probe("barrier_cycles", "parallel loops of next to nothing, on two threads", launching),
    Probe("foreign_bytes_per_cycle", "additions to an image that two threads cut in two ways", exchanging),
)
NOT_MEASURED = {  # figures that no run of a kernel shows, and why
    "cache_share": "a rule for choosing tiles, no quantity of the CPU",
    "block_cycles": "LLVM's model of the Neoverse N1: a load, an addition and a store, which take its two vector pipes",
    "in_order_load_share": "what fits the step of an in-order core to LLVM's model of it",
    "added_dot_factor": "a loop of 12 such products in registers on Zen 5, of 8 bytes each",
    "weights_apart_factor": "LLVM's model of the A76: such weights are spread, each by an instruction",
}
