"""Depthwise convolution of 8-bit integers: lanes over pixels, NCHW, sums in int32; the compute is `taps.py`'s.

A channel's plane, padded, stays in the first cache while its sums are made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tvm.s_tir import Schedule

from tvm_sched.kernels.base import Form, least_cycles
from tvm_sched.kernels.fusion import finish
from tvm_sched.kernels.integer.dots import sum_up
from tvm_sched.kernels.integer.planar import taps
from tvm_sched.kernels.integer.planar.taps import Stages, TapsKernel, TapsProblem
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.targets import Target

NAME = "planar_depthwise"  # the block of products
MOST_TOGETHER = 16  # channels


@dataclass(frozen=True)
class DepthwiseTile:
    """`vectors` in registers, for each of the pixels that begin in a lane."""

    vectors: int

    def __str__(self) -> str:
        return f"{self.vectors} vectors of lanes in registers"


def tiles(problem: TapsProblem, target: Target, most: int = 8) -> list[DepthwiseTile]:
    """Tiles that fit the registers, cheapest first."""
    limit = max(1, target.registers // 2 // problem.begun)
    found = [DepthwiseTile(each) for each in divisors(taps.positions_of(problem), limit)]
    return sorted(found, key=lambda tile: (rounded(cycles(problem, tile, target)), -tile.vectors))[:most]


def cycles(problem: TapsProblem, tile: DepthwiseTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles on the target's cores."""
    sums = tile.vectors * problem.begun
    step = taps.step_cycles(problem, sums, sums, 1, target)
    product = problem.vectors / sums * taps.taps(problem) * step
    stored = problem.vectors * target.costs.integer_store_cycles
    begun = problem.layout.tiles * target.costs.tile_cycles
    channel = product + stored + begun + taps.copying_cycles(problem, 1, target)
    return problem.batch * problem.outputs * channel / target.cores


def schedule(sch: Schedule, tile: DepthwiseTile, target: Target) -> None:
    """Rewrites the compute, and the elementwise chain fused behind it: a few channels a thread."""
    problem = KERNEL.problem(sch)
    layout = problem.layout
    stages = Stages.of(sch, NAME)

    # 1. Outputs, a tile of rows at a time.
    image, channel, h, w = sch.get_loops(stages.epilogue)
    tiles, _ = sch.split(h, [None, layout.rows])
    stages.outputs_in_rows(sch, tiles, w, problem)

    # 2. Sums of a few vectors in registers, then in order.
    taps.in_registers(sch, stages, tile.vectors, problem)
    f, i, c, r, u, j = sch.get_loops(stages.product)[-6:]
    i, pixel = sch.split(i, [None, problem.dot.lanes])
    sch.reorder(c, r, u, f, i, pixel, j)

    # 3. The planes, padded: of several channels, so that their rows have left for the cache when vectors are loaded.
    channels, channel = sch.split(channel, [None, together(problem, target)])
    sch.compute_at(stages.planes, channels, preserve_unit_loops=True)
    stages.copy_planes(sch, problem)

    # 4. Threads; then the zeroing leaves the sum, and what is left of it is dot products.
    sch.parallel(sch.fuse(image, channels))
    for loop in (r, u):
        sch.unroll(loop)
    sum_up(sch, stages.product, c, [f, i], pixel, problem.dot)
    finish(sch, target)


def together(problem: TapsProblem, target: Target) -> int:
    """Channels whose planes are made at a time: what half of the first cache holds."""
    most = max(1, min(MOST_TOGETHER, target.l1_bytes // 2 // taps.stage_bytes(problem)))
    shares = [count for count in divisors(problem.outputs, most) if problem.outputs // count >= target.cores]
    return max(shares, default=1)


class PlanarDepthwise(TapsKernel):
    """Takes depthwise layers of integers whose taps lie side by side, with strides that divide a group of them."""

    name = NAME

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        found = [each for each in taps.problems(layer, 1, target) if tiles(each, target)] if layer.depthwise else []
        if found:
            problem = min(found, key=lambda each: least_cycles(self, each, target))
            yield Form(self, layer, problem, None, "planar depthwise", least_cycles(self, problem, target), rank=0)

    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)


KERNEL = PlanarDepthwise()
