"""The register tile that block-sparse and dense convolutions share: its shape, which shapes are worth trying, and what
one costs.

A tile is `rows x cols` output pixels by `groups` blocks of n output channels. Its accumulators live in vector registers
while a loop over the kept input channels (and kernel positions) feeds them: a step loads n weights a group once, and
multiplies them with one scalar a pixel. Around the tile stand three loops: bands of the image, groups, tiles in the
band. One band means 'weights stay, the image streams past'; as many bands as tiles means 'the image stays, weights
stream past'.

`cycles` estimates a tile's cost on a target, so that the best guess is good without tuning, and tuning only has to look
at the next few.
"""

from dataclasses import dataclass, fields
from math import ceil, gcd, hypot, log, prod

from tvm_sched.targets import Target

FLOAT = 4  # bytes
# registers that LLVM fills with weights and pixels of coming steps for an in-order core (Cortex-A55): with fewer it
# spills
IN_ORDER_AHEAD = 8
LINE = 64  # bytes of a cache line
# Of less than a vector: a core that splits a vector over two pipes starts two of these, as far as L1 gives it two
# scalars a cycle (Zen 4, measured).
NARROW_FMA_PER_CYCLE = 1.85
L2_BYTES_PER_CYCLE, FAR_BYTES_PER_CYCLE = (
    32,
    6,
)  # sustained by one core from L2 and from beyond; within what a ranking needs on x86 and A76


@dataclass(frozen=True)
class Work:
    """One convolution (or linear layer: a 1x1 image a row) as `groups` blocks of `n` output channels, `kept` input
    channels each.
    """

    batch: int
    height: int  # of the output
    width: int
    channels: int  # of the input
    groups: int
    kept: int
    n: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padded: bool = False
    indexed: bool = True  # False: all channels are kept, and no index is read

    @property
    def flat(self) -> bool:
        """Output pixel p reads input pixel p: all of the batch's pixels are one row."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not self.padded

    @property
    def image(self) -> tuple[int, int, int]:
        """(images, rows, columns) as the tile sees them."""
        return (1, 1, self.batch * self.height * self.width) if self.flat else (self.batch, self.height, self.width)

    @property
    def macs(self) -> int:
        """Multiply-adds of kept blocks, the whole batch."""
        return prod(self.image) * self.groups * self.n * self.kept * prod(self.kernel)

    def attributes(self) -> dict:
        """As attributes of a TIR block: what a schedule cannot read from the buffers' shapes travels with the block."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"work.{name}": list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def of_block(annotations) -> "Work":
        """The work that `attributes` wrote on a block."""
        values = {field.name: annotations[f"work.{field.name}"] for field in fields(Work)}
        return Work(
            **{
                name: tuple(map(int, value)) if name in ("kernel", "stride") else value
                for name, value in values.items()
            }
        )


@dataclass(frozen=True)
class Tile:
    """`rows x cols` pixels by `groups` groups in registers; `bands` divides the image's rows (its columns, where it has
    one row).
    """

    rows: int
    cols: int
    groups: int
    bands: int

    def __str__(self):
        return f"{self.rows}x{self.cols} pixels x {self.groups} groups, {self.bands} bands"


def candidates(work: Work, target: Target, most: int = 32, among: int | None = None) -> list[Tile]:
    """Tiles that fit the registers, cheapest estimate first, `most` at the most; never empty. A tile's groups divide
    `among`, else all.
    """
    _, height, width = work.image
    tiles = [
        Tile(rows, cols, groups, bands)
        for rows in divisors(height, limit=4)
        for cols in range(1, min(width, target.registers // rows) + 1)
        for groups in divisors(among or work.groups, limit=target.registers // (rows * cols))
        if fits_registers(work, rows, cols, groups, target)
        for bands in band_counts(height // rows if height > 1 else exact_tiles(width, cols))
    ]

    def preference(tile: Tile):
        """Estimates are rounded to 4 %; among equals the tile with the fewest groups and sums leaves most registers for
        addresses.
        """
        return round(log(cycles(work, tile, target)) / 0.04), tile.groups, tile.rows * tile.cols, tile.bands

    return sorted(tiles or [Tile(1, 1, 1, 1)], key=preference)[:most]


def fits_registers(work: Work, rows: int, cols: int, groups: int, target: Target) -> bool:
    """Whether a step's sums and weights, and where an instruction takes no scalar from memory the pixels that it
    multiplies with, are registers.
    """
    vectors, pixels = ceil(work.n / target.lanes), rows * cols
    if target.scalar_operand == "memory":
        scalars = 0
    elif target.scalar_operand == "register":
        scalars = 1 if groups == 1 else pixels
    else:
        scalars = max(lanes_held(work, rows, cols, groups, target.lanes), IN_ORDER_AHEAD if target.in_order else 0)
    return vectors * pixels * groups + vectors + scalars <= target.registers


def lanes_held(work: Work, rows: int, cols: int, groups: int, lanes: int) -> int:
    """Registers for what LLVM loads ahead where an FMA takes its scalar from a register's lane: pixels that are met
    again, by another group or the next tap, and of several groups the taps' weights.

    It does so where two of three hold: all channels are kept, there are taps, there are groups; else one pixel at a
    time is enough. The rule was found by counting the spills of the tiles of 22 to 32 registers, N = 4 to 32, for
    Cortex-A76; `tests/tvm_sched/test_neon_loops.py` holds it.
    """
    width, step, vectors = work.kernel[1], work.stride[1], ceil(work.n / lanes)
    if (not work.indexed) + (prod(work.kernel) > 1) + (groups > 1) < 2:
        return 1
    pixels = rows * min(cols * width, (cols - 1) * step + width)
    return pixels + (1 + (groups - 1) * vectors * width if prod(work.kernel) > 1 else 0)


def divisors(number: int, limit: int) -> list[int]:
    """Divisors of `number` up to `limit`."""
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]


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


def cycles(work: Work, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of one core's share of the work. `fma_cycles`: those of one vector's multiply-add in the loop,
    where they are known.
    """
    images, height, width = work.image
    vectors = ceil(work.n / target.lanes)
    pixels = tile.rows * tile.cols
    taps = prod(work.kernel)

    # One step of the innermost loop: bound by multiply-adds, by loads, or by waiting for the previous step's sums.
    sums = vectors * pixels * tile.groups
    loads = vectors * tile.groups + pixels * (tile.groups if work.indexed else 1)
    loads += 3 * tile.groups / taps if work.indexed else 0  # an index, and what makes an address of it
    arithmetic = sums
    if target.scalar_operand == "lane":
        loads += ceil(work.n * FLOAT / LINE) * tile.groups / taps  # prefetches, of a tap's lines or of less than a line
        loads *= (
            1.2 if vectors == taps == 1 and work.indexed else 1
        )  # index, address, pixel, one multiply-add: not all hidden, by LLVM's model
        arithmetic += (
            0 if work.indexed else 1
        )  # a pixel without an offset is spread over a register, which takes a pipe of the FMAs'
    narrow = work.n < target.lanes
    sums_per_cycle = max(target.fma_per_cycle, NARROW_FMA_PER_CYCLE) if narrow else target.fma_per_cycle
    if fma_cycles:
        step = fma_cycles * sums
    elif target.in_order:  # what loads make it wait, half of them by LLVM's model of the Cortex-A55
        step = max(arithmetic / sums_per_cycle + loads / target.loads_per_cycle / 2, 1.5 * target.fma_latency)
    else:
        step = max(arithmetic / sums_per_cycle, loads / target.loads_per_cycle, 1.5 * target.fma_latency)
    step *= 1.6 if overflows_a_set(work, tile, target) else 1.0
    step *= (
        1.2 if narrow and taps > 1 and tile.groups == 1 else 1.0
    )  # the scalars of one channel meet in few banks of L1
    tiles_in_band = (
        ceil(height / tile.rows / tile.bands) * ceil(width / tile.cols)
        if height > 1
        else ceil(width / tile.cols / tile.bands)
    )
    store = 10 + 3 * sums
    compute = work.kept * taps * step + store

    # A (band, groups) pass: the first tile waits for the weights, from where they were left; the others find them
    # nearer, if they fit.
    weights = tile.groups * work.kept * taps * work.n * FLOAT
    touched = min(1.0, work.kept * LINE / FLOAT / work.channels)
    band = prod(work.stride) * height * width * work.channels * FLOAT * touched / tile.bands
    together = hypot if narrow else max  # short vectors keep L1 busy by themselves: what comes from L2 has to wait
    first = together(compute, transfer(weights, weights * work.groups // tile.groups + band, target))
    other = together(compute, transfer(weights, weights + band / tiles_in_band, target))
    pass_cycles = together(first + (tiles_in_band - 1) * other, transfer(band, band + weights, target))
    passes = images * tile.bands * work.groups // tile.groups
    return pass_cycles * ceil(passes / target.cores)


def transfer(size: float, reuse_distance: float, target: Target) -> float:
    """Cycles to read `size` bytes again after `reuse_distance` bytes were touched."""
    if reuse_distance <= 0.75 * target.l1_bytes:
        return 0.0
    return size / (L2_BYTES_PER_CYCLE if reuse_distance <= 0.75 * target.l2_bytes else FAR_BYTES_PER_CYCLE)


def overflows_a_set(work: Work, tile: Tile, target: Target) -> bool:
    """Whether the lines in use, one a pixel, hit one set of L1 more often than it has ways: pixels a multiple of 4 KiB
    apart do.
    """
    if work.padded:
        return False  # the padded copy's pixels are spaced apart
    way = target.l1_bytes // target.l1_ways
    sets_hit = way // gcd(way, work.channels * work.stride[1] * FLOAT)
    return ceil(tile.rows * tile.cols / sets_hit) > target.l1_ways
