"""Convolution of 8-bit integers that reads few channels, as a network's first does: lanes over pixels, NCHW, sums in
int32; the compute is `taps.py`'s.

Where an image has fewer channels than a dot product takes, groups of them would be half empty: here a dot product takes
taps of one channel. A tile's rows stay in the first cache while all outputs are made of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from tvm.s_tir import Schedule

from tvm_sched.kernels.base import Form, least_cycles
from tvm_sched.kernels.fusion import finish
from tvm_sched.kernels.integer.dots import sum_up
from tvm_sched.kernels.integer.planar import taps
from tvm_sched.kernels.integer.planar.taps import Stages, TapsKernel, TapsProblem
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.targets import Target

NAME = "planar_stem"  # the block of products
MOST_CHANNELS = 8  # of the input: with more, groups of channels are fuller than those of taps
UNROLLED = 96  # dot products of a step that is code without a loop


@dataclass(frozen=True)
class StemTile:
    """In registers: `outputs` channels by `vectors`, for each of the pixels that begin in a lane."""

    outputs: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.outputs} channels x {self.vectors} vectors of lanes in registers"


def tiles(problem: TapsProblem, target: Target, most: int = 12) -> list[StemTile]:
    """Tiles that fit the registers, cheapest first."""
    found = [
        StemTile(outputs, vectors)
        for outputs in divisors(problem.outputs, target.registers)
        for vectors in divisors(taps.positions_of(problem), target.registers)
        if vectors * problem.begun * (outputs + 1) + 1 + problem.dot.constants <= target.registers
    ] or [StemTile(1, 1)]

    def preference(tile: StemTile) -> tuple:
        return rounded(cycles(problem, tile, target)), abs(tile.outputs * tile.vectors * problem.begun - 16)

    return sorted(found, key=preference)[:most]


def cycles(problem: TapsProblem, tile: StemTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles on the target's cores."""
    vectors = tile.vectors * problem.begun
    by_lane = problem.by_lane and tile.outputs % problem.dot.outputs == 0
    weights = tile.outputs // problem.dot.outputs if by_lane else tile.outputs
    step = taps.step_cycles(problem, vectors * tile.outputs, vectors, weights, target)
    steps = problem.inputs * taps.taps(problem)
    register_tiles = ceil(problem.vectors / vectors) * problem.outputs / tile.outputs
    product = register_tiles * (steps * step + target.costs.tile_cycles)
    stored = problem.vectors * problem.outputs * target.costs.integer_store_cycles
    return problem.batch * (product + stored + taps.copying_cycles(problem, problem.inputs, target)) / target.cores


def schedule(sch: Schedule, tile: StemTile, target: Target) -> None:
    """Rewrites the compute, and the elementwise chain fused behind it: a tile of rows a thread."""
    problem = KERNEL.problem(sch)
    layout = problem.layout
    stages = Stages.of(sch, NAME)

    # 1. Outputs: a tile of rows, of a few channels.
    image, channel, h, w = sch.get_loops(stages.epilogue)
    tiles, row = sch.split(h, [None, layout.rows])
    channels, channel = sch.split(channel, [None, tile.outputs])
    sch.reorder(image, tiles, channels, channel, row, w)
    stages.outputs_in_rows(sch, channels, w, problem)

    # 2. Sums in registers, then in order.
    taps.in_registers(sch, stages, tile.vectors, problem)
    o, _, f, i, c, r, u, j = sch.get_loops(stages.product)[-8:]
    i, pixel = sch.split(i, [None, problem.dot.lanes])
    sch.reorder(c, r, u, o, f, i, pixel, j)

    # 3. The planes, padded; 4. threads.
    stages.copy_planes(sch, problem)
    sch.parallel(sch.fuse(*sch.get_loops(stages.planes)[:-1]))
    sch.parallel(sch.fuse(image, tiles))

    # 5. The zeroing leaves the sum, and what is left of it is dot products.
    sch.unroll(u)
    if taps.taps(problem) * tile.outputs * tile.vectors * problem.begun <= UNROLLED:
        sch.unroll(r)
    if problem.by_lane:
        sum_up(sch, stages.product, c, [f, i], pixel, problem.dot, o)
    else:
        sum_up(sch, stages.product, c, [o, f, i], pixel, problem.dot)
    finish(sch, target)


class PlanarStem(TapsKernel):
    """Takes layers of few channels of integers whose taps lie side by side, with strides that divide a group."""

    name = NAME

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        takes = layer.groups == 1 and layer.channels <= MOST_CHANNELS and layer.kernel[1] > 1
        found = list(taps.problems(layer, layer.channels, target)) if takes else []
        if found:
            problem = min(found, key=lambda each: least_cycles(self, each, target))
            yield Form(self, layer, problem, None, "planar stem", least_cycles(self, problem, target), rank=1)

    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)


KERNEL = PlanarStem()
