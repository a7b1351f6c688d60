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

from dataclasses import dataclass, replace
from math import ceil, gcd, prod

from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.ownership import foreign_cycles
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.targets import Target
from tvm_sched.targets.costs import WIDENING
from tvm_sched.targets.sizes import HALF, LINE

# Registers that LLVM fills with weights and pixels of coming steps for an in-order core (Cortex-A55): with fewer it
# spills.
IN_ORDER_AHEAD = 8
OVERLAP = 3  # what fits measurements best: 2.4 to 3.2, by CPU and instructions
NARROW_FMAS = 2  # multiply-adds of less than a vector that start a cycle on a core with wider vectors
ENOUGH_SUMS = 16  # that wait for nothing: of any core here, latency times multiply-adds a cycle is less
CHANNELS_TOGETHER = 4  # that a step of short vectors multiplies
HALF_UNREACHED = (
    2  # registers that stay empty as a multiply-add of half precision takes lanes of the first sixteen only
)
MOST_PRODUCTS = 64  # of half precision in one sum: a relative error of 0.9e-3 to 1.6e-3, of up to 4608 in such blocks
IMMEDIATE = 4095  # numbers that the offset of a scalar's load reaches on AArch64


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
        for bands in band_counts(width if problem.flat else height // rows)
        if not problem.flat or bands * cols <= width
    ]

    def preference(tile: Tile) -> tuple:
        return rounded(cycles(problem, tile, target)), *handiness(problem, tile, target), tile.bands

    return sorted(tiles or [Tile(1, 1, 1, 1)], key=preference)[:most]


def handiness(problem: ConvProblem, tile: Tile, target: Target) -> tuple[int, int]:
    """The less the better among tiles of equal cost: few block rows, and about sixteen sums, which hide all waiting and
    leave registers for addresses.
    """
    sums = ceil(problem.n / target.lanes) * tile.rows * tile.cols * tile.block_rows
    return tile.block_rows, abs(sums - ENOUGH_SUMS)


def fits_registers(problem: ConvProblem, rows: int, cols: int, block_rows: int, target: Target) -> bool:
    """Whether a step's sums and weights, and the pixels that it multiplies with where they are not operands in memory,
    are registers.
    """
    vectors, pixels = ceil(problem.n / target.lanes), rows * cols
    shared = block_rows > 1 and not problem.indexed  # each pixel serves all block rows, and is loaded ahead of them
    weights = vectors * (block_rows if shared or prod(problem.kernel) > 1 else 1)  # LLVM loads those of a tap together
    if target.scalar_operand == "lane":
        held = lanes_held(problem, rows, cols, block_rows, target.lanes)
        weights, scalars = vectors, max(held, IN_ORDER_AHEAD if target.in_order else 0)
        if (
            target.number_bytes == HALF
            and prod(problem.kernel) > 1
            and (loads_ahead(problem, block_rows) or vectors == 1)
        ):
            scalars += HALF_UNREACHED
    elif shared:
        scalars = pixels
    else:
        scalars = 0 if target.scalar_operand == "memory" and vectors == 1 else 1
    return vectors * pixels * block_rows + weights + scalars <= target.registers


def lanes_held(problem: ConvProblem, rows: int, cols: int, block_rows: int, lanes: int) -> int:
    """Registers for what LLVM loads ahead where an FMA takes its scalar from a register's lane: pixels that are met
    again, by another block row or the next tap, and of several block rows the taps' weights.

    It does so where two of three hold: all channels are kept, there are taps, there are block rows; else one pixel at a
    time is enough. The rule was found by counting the spills of the tiles of 22 to 32 registers, N = 4 to 32, for
    Cortex-A76; `tests/tvm_sched/kernels/test_neon_loops.py` holds it.
    """
    if not loads_ahead(problem, block_rows):
        return 1
    width, step = problem.kernel[1], problem.stride[1]
    pixels = rows * min(cols * width, (cols - 1) * step + width)
    return pixels + (1 + (block_rows - 1) * ceil(problem.n / lanes) * width if prod(problem.kernel) > 1 else 0)


def loads_ahead(problem: ConvProblem, block_rows: int) -> bool:
    """Whether LLVM loads ahead."""
    return (not problem.indexed) + (prod(problem.kernel) > 1) + (block_rows > 1) >= 2


def channels_in_step(problem: ConvProblem, target: Target) -> tuple[int, int]:
    """(pieces, channels of a piece) of one step of the innermost loop; a piece's channels follow one another sum by
    sum.

    Short vectors take two scalars a cycle, which L1 gives only from different banks: a pixel's neighbours in the sum,
    not its row's. And where each pixel is loaded for one multiply-add from a register's lane, all wait for the index:
    with a piece of two channels its indices, and its weights, are loaded by one instruction, and those of a second one
    while the first is multiplied.
    """
    if problem.n < target.lanes and not problem.flat:
        return 1, gcd(problem.kept, CHANNELS_TOGETHER)
    one_multiply_add = problem.indexed and prod(problem.kernel) == 1 and problem.n <= target.lanes
    if target.scalar_operand == "lane" and one_multiply_add:
        return gcd(problem.kept, 4) // gcd(problem.kept, 2), gcd(problem.kept, 2)
    return 1, 1


def band_counts(pieces: int) -> list[int]:
    """Some divisors of `pieces`, which bands are made of, from one band to a band a piece, each about twice the one
    before.
    """
    chosen = [1]
    for d in divisors(pieces, pieces):
        if d >= 2 * chosen[-1] or d == pieces != chosen[-1]:
            chosen.append(d)
    return chosen


def cycles(problem: ConvProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the busiest core. `fma_cycles`: those of one vector's multiply-add in the loop, where they
    are known.
    """
    images, height, width = problem.image
    tile_rows = 1 if problem.flat else height // tile.rows // tile.bands  # of a band
    whole, rest = divmod(width // tile.bands if problem.flat else width, tile.cols)
    compute = whole * tile_cycles(problem, tile, target, fma_cycles)
    compute += tile_cycles(problem, replace(tile, cols=rest), target, fma_cycles) if rest else 0
    tiles = tile_rows * (whole + (rest > 0))

    # A pass of some block rows over a band: the first tile waits for the weights, from where they were left; the others
    # find them nearer, if they fit.
    weights = tile.block_rows * problem.row_bytes(target.number_bytes)
    touched = min(1.0, problem.kept * LINE / target.number_bytes / problem.channels)
    pixels = prod(map(min, problem.stride, problem.kernel)) * height * width  # 1x1 with stride skips the others
    band = pixels * problem.channels * target.number_bytes * touched / tile.bands
    groups = problem.block_rows // tile.block_rows

    def pass_cycles(reuse_distance: float) -> float:
        first = transfer(weights, reuse_distance, target)
        others = (tiles - 1) * transfer(weights, weights + band / tiles, target)
        return together(tile_rows * compute, first + others, transfer(band, band + weights, target))

    again = weights * groups + band  # touched since the band before
    mine = ceil(images * tile.bands * groups / target.cores)  # passes of the busiest core
    new = min(mine, groups)  # with weights that this core has not read before in this call: a band runs through all
    passes = new * pass_cycles(max(again, target.network_bytes)) + (mine - new) * pass_cycles(again)
    whole = images * height * width
    outputs = whole * problem.block_rows * problem.n
    return passes + foreign_cycles(outputs, whole, images * tile.bands, target)


def together(*parts: float) -> float:
    """Cycles of work that a core does side by side: the longest part, and more where others are as long, which get into
    its way now and then.
    """
    longest = max(parts)
    return longest * sum((part / longest) ** OVERLAP for part in parts) ** (1 / OVERLAP)


def apart(total: float, other: float) -> float:
    """The part that takes `total` cycles together with `other`."""
    return max(0.0, total**OVERLAP - other**OVERLAP) ** (1 / OVERLAP)


def tile_cycles(problem: ConvProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of a register tile whose weights and pixels are in the first cache."""
    sums = ceil(problem.n / target.lanes) * tile.rows * tile.cols * tile.block_rows
    steps = problem.kept * prod(problem.kernel)
    step = step_cycles(problem, tile, target, fma_cycles)
    blocks = ceil(steps / MOST_PRODUCTS) if target.number_bytes == HALF and steps > MOST_PRODUCTS else 0
    ending = target.costs.store_cycles + target.costs.block_cycles * blocks
    return steps * step + target.costs.tile_cycles + ending * sums


def step_cycles(problem: ConvProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of one step of the innermost loop, a channel at a tap: bound by multiply-adds, which wait for the sums of
    the step before where these are few, or by loads. Weights of 16 bits are widened besides.
    """
    costs = target.costs
    sums = ceil(problem.n / target.lanes) * tile.rows * tile.cols * tile.block_rows
    # A pixel without an offset is spread over a register, which takes a pipe of the multiply-adds'.
    arithmetic = sums + (target.scalar_operand == "lane" and not problem.indexed)
    rate = narrow_rate(target) if problem.n < target.lanes else target.fma_per_cycle
    loads = load_cycles(problem, tile, target)
    if fma_cycles:
        step = fma_cycles * sums
    elif target.in_order:
        step = max(arithmetic / rate + costs.in_order_load_share * loads, target.fma_latency)
    else:
        step = max(together(arithmetic / rate, target.fma_latency), loads)
    if problem.weights in WIDENING and not fma_cycles:
        step += getattr(costs, WIDENING[problem.weights]) * ceil(problem.n / target.lanes) * tile.block_rows
    return step * (costs.set_overflow_factor if overflows_a_set(problem, tile, target) else 1)


def narrow_rate(target: Target) -> float:
    """Multiply-adds of less than a vector that start a cycle."""
    return max(target.fma_per_cycle, NARROW_FMAS)


def halves_vectors(target: Target) -> bool:
    """Whether half vectors are multiplied as fast as whole ones, which the core takes as two halves."""
    return narrow_rate(target) >= 2 * target.fma_per_cycle


def load_cycles(problem: ConvProblem, tile: Tile, target: Target) -> float:
    """Cycles in which the load ports are busy in a step: with vectors of weights, with a scalar a pixel, which several
    block rows share where they have no indices, and with an index a block row, once for all taps.
    """
    costs, taps, ports = target.costs, prod(problem.kernel), target.loads_per_cycle
    vectors, pixels = ceil(problem.n / target.lanes), tile.rows * tile.cols
    weights = vectors * tile.block_rows
    scalars = pixels * (tile.block_rows if problem.indexed else 1)
    others = costs.index_loads * tile.block_rows / taps if problem.indexed else 0.0
    if target.scalar_operand == "lane":  # prefetches, of a tap's lines or of less than a line
        others += ceil(problem.n * target.number_bytes / LINE) * tile.block_rows / taps
    cycles = weights / min(ports, costs.vector_loads_per_cycle) + others / ports
    cycles += scalars / min(ports, costs.scalar_loads_per_cycle)
    # A scalar that serves one multiply-add only: of several taps many are in flight that lie in one bank.
    alone = vectors == 1 and taps > 1 and (problem.indexed or tile.block_rows == 1) and tile.cols > 1
    return cycles * (costs.bank_factor if alone and target.scalar_operand != "lane" else 1)


def transfer(size: float, reuse_distance: float, target: Target) -> float:
    """Cycles to read `size` bytes again after `reuse_distance` bytes were touched."""
    costs = target.costs
    if reuse_distance <= costs.cache_share * target.l1_bytes:
        return 0.0
    if reuse_distance <= costs.cache_share * target.l2_bytes:
        return size / costs.l2_bytes_per_cycle
    # Half of the last cache: others use it too, and what the second throws out goes there.
    near = reuse_distance <= costs.cache_share * target.last_cache_bytes / 2
    return size / (costs.far_bytes_per_cycle if near else costs.memory_bytes_per_cycle)


def overflows_a_set(problem: ConvProblem, tile: Tile, target: Target) -> bool:
    """Whether the lines in use, one a pixel, hit one set of L1 more often than it has ways: pixels a multiple of 4 KiB
    apart do.
    """
    if problem.padded:
        return False  # the padded copy's pixels are spaced apart
    way = target.l1_bytes // target.l1_ways
    sets_hit = way // gcd(way, problem.channels * problem.stride[1] * target.number_bytes)
    return ceil(tile.rows * tile.cols / sets_hit) > target.l1_ways
