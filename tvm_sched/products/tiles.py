"""How each product is cut: what is computed in registers at once, how many images at once; by the target's figures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, gcd, prod

from tvm_sched.kernels.ranking import divisors
from tvm_sched.products.planes import positions
from tvm_sched.products.problem import BYTES, Problem
from tvm_sched.targets import Target

MOST_VECTORS, MOST_BLOCKS = 8, 4
MOST_POSITIONS = 1024  # of images that are laid side by side
WASTE = 1.05  # of positions computed for nothing that is not worth laying more images side by side
INTERLEAVED_GAIN = 1.2  # of the share of positions that are wanted, which pays for turning images over
STEP_CYCLES = 1.0  # of a step's index, address and branch
LEAST_VECTORS = 16  # of positions that the sums of a weight's gradient run over, before their lanes are added
NEAR_SHARE = 0.6  # of the first cache, for the output's gradients of a register tile
SUM_CYCLES = 3.0  # to add the lanes of a sum


@dataclass(frozen=True)
class Tile:
    """In registers: `outputs` of a block by `vectors` of positions; of a weight's gradient `outputs` by so many
    `blocks` and neighbouring `taps`. `images` are laid side by side.
    """

    outputs: int
    vectors: int = 1
    blocks: int = 1
    taps: int = 1
    images: int = 1


def lanes_of(problem: Problem, target: Target) -> int:
    """Numbers in a vector."""
    return target.lanes * BYTES["float32"] // BYTES[problem.dtype]


def in_place(problem: Problem, whole: int) -> bool:
    """Whether PyTorch's memory serves as it is: no tap, stride or padding, and whole vectors in a plane."""
    plain = problem.pointwise and problem.stride == (1, 1) and problem.padding == (0, 0)
    return plain and not problem.turned and prod(problem.image) % whole == 0


def shares(problem: Problem, threads: int) -> int:
    """Threads that get equal shares of the images."""
    return gcd(problem.batch, threads)


def together(problem: Problem, lanes: int, threads: int) -> int:
    """Images whose positions are laid side by side, so that few are computed for nothing; 1 for those with taps."""
    if not problem.pointwise:
        return 1
    each = problem.batch // shares(problem, threads)
    size = prod(problem.output)
    counts = [count for count in divisors(each, each) if count == 1 or count * size <= MOST_POSITIONS]
    waste = {count: positions(problem, count, lanes) / (count * size) for count in sorted(counts)}
    return next((count for count, share in waste.items() if share <= WASTE), min(waste, key=lambda count: waste[count]))


def interleaved(problem: Problem, target: Target, threads: int) -> Problem:
    """With images side by side at each pixel, where they are so small that vectors of one are mostly positions between
    its rows: as few images as serve, of those that leave each thread its share.
    """
    if problem.pointwise:
        return problem
    lanes = lanes_of(problem, target)
    each = problem.batch // shares(problem, threads)

    def used(images: int) -> float:
        """Share of the positions computed that are wanted."""
        group = replace(problem, interleaved=images)
        return images * prod(problem.output) / positions(group, 1, lanes)

    def near(images: int) -> bool:
        """Whether planes of the input stay in the second cache."""
        group = replace(problem, interleaved=images)
        return (
            problem.channels * len(problem.phases) * group.rows * group.pitch * BYTES[problem.dtype] <= target.l2_bytes
        )

    counts = [count for count in sorted(divisors(each, each)) if count == 1 or (2 * count >= lanes and near(count))]
    most = max(used(count) for count in counts)
    if most < INTERLEAVED_GAIN * used(1):
        return problem
    fitting = [count for count in counts if used(count) * WASTE >= most]
    images = next((count for count in fitting if count % lanes == 0), fitting[0])  # shifts of whole vectors, if can be
    return replace(problem, batch=problem.batch // images, interleaved=images)


def straddles(problem: Problem, target: Target) -> float:
    """Loads that a vector of shifted pixels costs: where vectors are cache lines, two."""
    if problem.pointwise or problem.interleaved % lanes_of(problem, target) == 0:
        return 1.0
    return 2.0 if target.lanes * BYTES["float32"] >= 64 else 1.5


def register_tiles(problem: Problem, target: Target, extra: int) -> Iterator[tuple[int, int]]:
    """(outputs, vectors) that fit the registers, `extra` of them for each vector besides the products'."""
    for outputs, vectors in product(divisors(problem.n, problem.n), range(1, MOST_VECTORS + 1)):
        if outputs * vectors + extra * vectors + 1 <= target.registers:
            yield outputs, vectors


def usable(problem: Problem, vectors: int, images: int, lanes: int) -> int:
    """Register tiles that cover the positions of so many images."""
    return positions(problem, images, lanes * vectors) // (lanes * vectors)


def forward(problem: Problem, target: Target, threads: int) -> Tile:
    """Of the output."""
    return _of_pixels(problem, target, threads, straddles(problem, target))


def input_gradient(problem: Problem, target: Target, threads: int) -> Tile:
    """Of the input's gradient: each vector of which is loaded and stored in each step."""
    return _of_pixels(problem, target, threads, 2.0)


def _of_pixels(problem: Problem, target: Target, threads: int, loads: float) -> Tile:
    lanes, costs = lanes_of(problem, target), target.costs
    images = together(problem, lanes, threads)

    def cycles(tile: tuple[int, int]) -> float:
        outputs, vectors = tile
        arithmetic = max(outputs * vectors / target.fma_per_cycle, target.fma_latency)
        loaded = vectors * loads / costs.vector_loads_per_cycle + outputs / costs.scalar_loads_per_cycle
        steps = usable(problem, vectors, images, lanes) * problem.n // outputs
        return steps * (max(arithmetic, loaded) + STEP_CYCLES / problem.taps)

    tiles = register_tiles(problem, target, extra=1)
    outputs, vectors = min(tiles, key=lambda tile: (cycles(tile), -tile[1]))
    return Tile(outputs, vectors, images=images)


def weight_gradient(problem: Problem, target: Target, threads: int) -> Tile:
    """Of the weights' gradient. `vectors` of positions of `images` are gone through for a register tile, so many that
    the gradients of its outputs stay in the first cache meanwhile.
    """
    lanes, costs = lanes_of(problem, target), target.costs
    most = problem.batch // shares(problem, threads)
    counts = sorted(divisors(most, most))

    def stretch(outputs: int) -> tuple[int, int]:
        """(images, vectors of each, or of all where they are one row)."""
        near = max(LEAST_VECTORS, int(target.l1_bytes * NEAR_SHARE) // (target.lanes * BYTES["float32"] * outputs))
        if in_place(problem, lanes):
            own = prod(problem.image) // lanes
            vectors = max(divisors(own, near))
            return max(count for count in counts if count * vectors <= near or count == 1), vectors
        if problem.pointwise:
            images = next((each for each in counts if positions(problem, each, lanes) // lanes >= near), most)
            own = positions(problem, images, lanes) // lanes
            return images, ceil(own / ceil(own / near))
        own = positions(problem, 1, lanes) // lanes
        vectors = ceil(own / ceil(own / near))
        return max(count for count in counts if count * vectors <= near or count == 1), vectors

    def cycles(tile: Tile) -> float:
        sums = tile.outputs * tile.blocks * tile.taps
        arithmetic = max(sums / target.fma_per_cycle, target.fma_latency)
        loaded = tile.outputs + tile.blocks * tile.taps * straddles(problem, target)
        step = max(arithmetic, loaded / costs.vector_loads_per_cycle) + STEP_CYCLES
        steps = tile.vectors * (1 if problem.pointwise and not in_place(problem, lanes) else tile.images)
        return (step + sums * SUM_CYCLES / steps) / sums

    choices = [
        Tile(outputs, stretch(outputs)[1], blocks, taps, stretch(outputs)[0])
        for outputs in divisors(problem.n, problem.n)
        for blocks in (range(1, MOST_BLOCKS + 1) if problem.pointwise else (1,))
        for taps in divisors(problem.kernel[1], problem.kernel[1])
        if outputs * blocks * taps + min(outputs, blocks * taps) + 1 < target.registers
    ]
    return min(choices, key=cycles)
