"""The register tile that block-sparse and dense convolutions share: its shape, which shapes are worth trying, and what
one costs.

A tile is `rows x cols` output pixels by some block rows of n output channels. Its accumulators live in vector registers
while a loop over the kept input channels (and kernel positions) feeds them: a step loads n weights a block row once,
and multiplies them with one scalar a pixel. Around the tile stand three loops: bands of the image, block rows, tiles in
the band. One band means 'weights stay, the image streams past'; as many bands as tiles means 'the image stays, weights
stream past'.

`cycles` estimates a tile's cost on a target, so that the best guess is good without tuning, and tuning only has to look
at the next few.
"""

from dataclasses import dataclass
from math import ceil, gcd, hypot, prod

from tvm_sched.kernels.conv_problem import INDEX_LOADS, ConvProblem
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import FLOAT, LINE

# Registers that LLVM fills with weights and pixels of coming steps for an in-order core (Cortex-A55): with fewer it
# spills.
IN_ORDER_AHEAD = 8
IMMEDIATE = 16380  # bytes that the offset of a load of 4 bytes reaches on AArch64


@dataclass(frozen=True)
class Tile:
    """`rows x cols` pixels by `block_rows` in registers; `bands` divides the image's rows (its columns, where it has
    one row).
    """

    rows: int
    cols: int
    block_rows: int
    bands: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols} pixels x {self.block_rows} block rows, {self.bands} bands"


def candidates(problem: ConvProblem, target: Target, most: int = 32, among: int | None = None) -> list[Tile]:
    """Tiles that fit the registers, cheapest estimate first, `most` at the most; never empty. A tile's block rows
    divide `among`, else all.
    """
    _, height, width = problem.image
    tiles = [
        Tile(rows, cols, block_rows, bands)
        for rows in divisors(height, limit=4)
        for cols in range(1, min(width, target.registers // rows) + 1)
        for block_rows in divisors(among or problem.block_rows, limit=target.registers // (rows * cols))
        if fits_registers(problem, rows, cols, block_rows, target)
        for bands in band_counts(height // rows if height > 1 else exact_tiles(width, cols))
    ]

    def preference(tile: Tile) -> tuple:
        """Among equals the tile with the fewest block rows and sums leaves most registers for addresses."""
        return rounded(cycles(problem, tile, target)), tile.block_rows, tile.rows * tile.cols, tile.bands

    return sorted(tiles or [Tile(1, 1, 1, 1)], key=preference)[:most]


def fits_registers(problem: ConvProblem, rows: int, cols: int, block_rows: int, target: Target) -> bool:
    """Whether a step's sums and weights, and where an instruction takes no scalar from memory the pixels that it
    multiplies with, are registers.
    """
    vectors, pixels = ceil(problem.n / target.lanes), rows * cols
    if target.scalar_operand == "memory":
        scalars = 0
    elif target.scalar_operand == "register":
        scalars = 1 if block_rows == 1 else pixels
    else:
        held = lanes_held(problem, rows, cols, block_rows, target.lanes)
        scalars = max(held, IN_ORDER_AHEAD if target.in_order else 0)
    return vectors * pixels * block_rows + vectors + scalars <= target.registers


def lanes_held(problem: ConvProblem, rows: int, cols: int, block_rows: int, lanes: int) -> int:
    """Registers for what LLVM loads ahead where an FMA takes its scalar from a register's lane: pixels that are met
    again, by another block row or the next tap, and of several block rows the taps' weights.

    It does so where two of three hold: all channels are kept, there are taps, there are block rows; else one pixel at a
    time is enough. The rule was found by counting the spills of the tiles of 22 to 32 registers, N = 4 to 32, for
    Cortex-A76; `tests/tvm_sched/kernels/test_neon_loops.py` holds it.
    """
    width, step, vectors = problem.kernel[1], problem.stride[1], ceil(problem.n / lanes)
    if (not problem.indexed) + (prod(problem.kernel) > 1) + (block_rows > 1) < 2:
        return 1
    pixels = rows * min(cols * width, (cols - 1) * step + width)
    return pixels + (1 + (block_rows - 1) * vectors * width if prod(problem.kernel) > 1 else 0)


def exact_tiles(width: int, cols: int) -> int:
    """Tiles that may be dealt out to bands: none but one band where the last tile is cut short (its tail is split off
    at compile time).
    """
    return width // cols if width % cols == 0 else 1


def band_counts(tiles: int) -> list[int]:
    """Some divisors of `tiles`, from one band to a band a tile, each about twice the one before."""
    chosen = [1]
    for d in divisors(tiles, tiles):
        if d >= 2 * chosen[-1] or d == tiles != chosen[-1]:
            chosen.append(d)
    return chosen


def cycles(problem: ConvProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the busiest core. `fma_cycles`: those of one vector's multiply-add in the loop, where they
    are known.
    """
    images, height, width = problem.image
    costs, taps = target.costs, prod(problem.kernel)
    if height > 1:
        tiles_in_band = ceil(height / tile.rows / tile.bands) * ceil(width / tile.cols)
    else:
        tiles_in_band = ceil(width / tile.cols / tile.bands)
    sums = ceil(problem.n / target.lanes) * tile.rows * tile.cols * tile.block_rows
    step = step_cycles(problem, tile, target, fma_cycles)
    compute = problem.kept * taps * step + costs.tile_cycles + costs.store_cycles * sums

    # A pass of some block rows over a band: the first tile waits for the weights, from where they were left; the others
    # find them nearer, if they fit.
    weights = tile.block_rows * problem.kept * taps * problem.n * FLOAT
    touched = min(1.0, problem.kept * LINE / FLOAT / problem.channels)
    band = prod(problem.stride) * height * width * problem.channels * FLOAT * touched / tile.bands
    # Short vectors keep the first cache busy by themselves: what comes from the second has to wait.
    together = hypot if problem.n < target.lanes else max
    first = together(compute, transfer(weights, weights * problem.block_rows // tile.block_rows + band, target))
    other = together(compute, transfer(weights, weights + band / tiles_in_band, target))
    pass_cycles = together(first + (tiles_in_band - 1) * other, transfer(band, band + weights, target))
    passes = images * tile.bands * problem.block_rows // tile.block_rows
    return pass_cycles * ceil(passes / target.cores)


def step_cycles(problem: ConvProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of one step of the innermost loop, a channel at a tap: bound by multiply-adds, by loads, or by waiting for
    the sums of the step before.
    """
    costs, taps = target.costs, prod(problem.kernel)
    vectors, pixels, narrow = ceil(problem.n / target.lanes), tile.rows * tile.cols, problem.n < target.lanes
    sums = vectors * pixels * tile.block_rows
    arithmetic: float = sums
    loads: float = vectors * tile.block_rows + pixels * (tile.block_rows if problem.indexed else 1)
    loads += INDEX_LOADS * tile.block_rows / taps if problem.indexed else 0
    if target.scalar_operand == "lane":
        # Prefetches, of a tap's lines or of less than a line.
        loads += ceil(problem.n * FLOAT / LINE) * tile.block_rows / taps
        # A pixel without an offset is spread over a register, which takes a pipe of the multiply-adds'.
        arithmetic += 0 if problem.indexed else 1
    loads *= costs.index_chain_factor if vectors == taps == 1 and problem.indexed else 1
    rate = max(target.fma_per_cycle, costs.narrow_fma_per_cycle) if narrow else target.fma_per_cycle
    latency = costs.latency_factor * target.fma_latency
    if fma_cycles:
        step = fma_cycles * sums
    elif target.in_order:
        step = max(arithmetic / rate + costs.in_order_load_share * loads / target.loads_per_cycle, latency)
    else:
        step = max(arithmetic / rate, loads / target.loads_per_cycle, latency)
    step *= costs.set_overflow_factor if overflows_a_set(problem, tile, target) else 1
    return step * (costs.bank_factor if narrow and taps > 1 and tile.block_rows == 1 else 1)


def transfer(size: float, reuse_distance: float, target: Target) -> float:
    """Cycles to read `size` bytes again after `reuse_distance` bytes were touched."""
    costs = target.costs
    if reuse_distance <= costs.cache_share * target.l1_bytes:
        return 0.0
    near = reuse_distance <= costs.cache_share * target.l2_bytes
    return size / (costs.l2_bytes_per_cycle if near else costs.far_bytes_per_cycle)


def overflows_a_set(problem: ConvProblem, tile: Tile, target: Target) -> bool:
    """Whether the lines in use, one a pixel, hit one set of L1 more often than it has ways: pixels a multiple of 4 KiB
    apart do.
    """
    if problem.padded:
        return False  # the padded copy's pixels are spaced apart
    way = target.l1_bytes // target.l1_ways
    sets_hit = way // gcd(way, problem.channels * problem.stride[1] * FLOAT)
    return ceil(tile.rows * tile.cols / sets_hit) > target.l1_ways
