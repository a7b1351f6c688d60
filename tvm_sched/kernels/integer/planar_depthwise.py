"""Depthwise convolution of 8-bit integers: lanes over pixels, NCHW, sums in int32.

    S[b, c, t, f, i] = sum_{r, u, j} weight[c, r, u, j] * x_padded[b, c, row r of tile t, J*(i + u) + stride*f + j]
    y[b, c, h, w]    = S[b, c, t, e % F, e // F]          e: position of (h, w) in tile t

A dot product takes J bytes side by side in memory (`dots.py`), here J taps of a row, whose weights are filled up by
zeros: lane i of a vector has those of output F*i, F = J / stride, and a vector that starts `stride` bytes further on
those of output F*i + 1. So nothing is rearranged before the products; F vectors of sums are interleaved afterwards.
`x [B, C, H, W]`, `weight [C, R, U, J]`, `y [B, C, H', W']` int32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from tvm import relax, te
from tvm.s_tir import Schedule

from tvm_sched.kernels.base import Form, Kernel, fusable_call, least_cycles
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.integer.dots import DOTS, Dot, dot_of, sum_up
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar_schedule import DOT, STORE_CYCLES
from tvm_sched.kernels.integer.planes import Layout, copy_padded, copy_whole, padded_pixel, read_whole_runs
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import split_lanes, unrolled_vector
from tvm_sched.kernels.rewrites.tir_blocks import moves_only
from tvm_sched.targets import Target

NAME = "planar_depthwise"  # the block of products
PLANES, ROUNDED, ORDERED, RESULT = (f"{NAME}_{stage}" for stage in ("planes", "rounded", "ordered", "result"))
MOST_POSITIONS = 512  # of a tile
MOST_TOGETHER = 16  # channels
BYTES = {"uint8": 1, "int8": 1, "int16": 2}
BATCH, CHANNELS = "planar.batch", "planar.channels"


@dataclass(frozen=True)
class DepthwiseProblem:
    """`channels` planes of each of `batch` images, in tiles of a layout."""

    batch: int
    channels: int
    layout: Layout
    dot: Dot

    @property
    def outputs(self) -> int:
        """F: outputs whose taps begin in one lane."""
        return self.dot.group // self.layout.stride[1]

    @property
    def parts(self) -> int:
        """U: dot products of a row of taps."""
        return ceil(self.layout.kernel[1] / self.dot.group)

    @property
    def columns(self) -> int:
        """Bytes of a row of a plane."""
        return self.layout.pitch * self.layout.stride[1]

    @property
    def rows(self) -> int:
        """Of a plane; the last may be there for whole vectors only."""
        layout = self.layout
        last = ((layout.tiles - 1) * layout.step + layout.run) * layout.stride[1] + self.parts * self.dot.group
        below = (layout.kernel[0] - 1) * layout.dilation[0] // layout.stride[0]
        return ceil(last / self.columns) + below

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.layout.attributes() | {DOT: self.dot.name, BATCH: self.batch, CHANNELS: self.channels}


@dataclass(frozen=True)
class DepthwiseTile:
    """`vectors` in registers, for each of the outputs that begin in a lane."""

    vectors: int

    def __str__(self) -> str:
        return f"{self.vectors} vectors of lanes in registers"


def depthwise(
    x: te.Tensor,
    weight: te.Tensor,
    *more: te.Tensor,
    problem: DepthwiseProblem,
    zero_point: int = 0,
    rounding: Rounding | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `more`: what `rounding` takes; `marks` become attributes of the block of
    products.
    """
    layout, dot, outputs = problem.layout, problem.dot, problem.outputs
    batch, channels, _, _ = (int(extent) for extent in x.shape)
    kernel_h, parts, group = (int(extent) for extent in weight.shape[1:])
    down, _ = layout.phases

    def pixel(b, c, phase, m):
        row = m // problem.columns * layout.stride[0] + phase - layout.padding[0]
        column = m % problem.columns - layout.padding[1]
        return padded_pixel(x, zero_point, (b, c), row, column).astype(dot.x)

    planes = te.compute((batch, channels, down, problem.rows * problem.columns), pixel, name=PLANES)
    r, u, j = (te.reduce_axis((0, extent), name) for extent, name in ((kernel_h, "r"), (parts, "u"), (group, "j")))

    def product(b, c, t, f, i):
        phase, _ = layout.phase(r, 0)
        at = (t * layout.step + layout.offset(r, 0)) * layout.stride[1] + (i + u) * group + f * layout.stride[1] + j
        return te.sum(weight[c, r, u, j].astype("int32") * planes[b, c, phase, at].astype("int32"), axis=[r, u, j])

    attributes = problem.attributes() | (marks or {})
    shape = (batch, channels, layout.tiles, outputs, layout.run // outputs)
    sums = sums_ = te.compute(shape, product, name=NAME, attrs=attributes)
    if rounding is not None:
        sums = te.compute(
            shape, lambda b, c, t, f, i: rounding.of_channel(sums_(b, c, t, f, i), more, c), name=ROUNDED
        )
    ordered = te.compute(
        (batch, channels, layout.tiles, layout.run),
        lambda b, c, t, e: sums[b, c, t, e % outputs, e // outputs],
        name=ORDERED,
    )
    result = (batch, channels, *layout.output)
    return te.compute(result, lambda b, c, h, w: ordered[b, c, *layout.place(h, w)], name=RESULT)


def problem_of(sch: Schedule) -> DepthwiseProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, NAME)).annotations
    layout, dot = Layout.of_block(notes), DOTS[str(notes[DOT])]
    return DepthwiseProblem(int(notes[BATCH]), int(notes[CHANNELS]), layout, dot)


def tiles(problem: DepthwiseProblem, target: Target, most: int = 8) -> list[DepthwiseTile]:
    """Tiles that fit the registers, cheapest first."""
    vectors = problem.layout.run // problem.outputs // problem.dot.lanes
    found = [DepthwiseTile(each) for each in divisors(vectors, target.registers // 2 // problem.outputs)]
    return sorted(found, key=lambda tile: (rounded(cycles(problem, tile, target)), -tile.vectors))[:most]


def cycles(
    problem: DepthwiseProblem, tile: DepthwiseTile, target: Target, fma_cycles: float | None = None
) -> float:
    """Estimated cycles on the target's cores."""
    layout, dot, costs = problem.layout, problem.dot, target.costs
    vectors = layout.tiles * layout.run / dot.lanes
    dots = layout.kernel[0] * problem.parts
    loads = 1 / costs.vector_loads_per_cycle + 1 / (tile.vectors * problem.outputs) / costs.scalar_loads_per_cycle
    product = vectors * dots * max(loads, dot.instructions * (fma_cycles or 1 / target.fma_per_cycle))
    stored = vectors * STORE_CYCLES * 1.5
    copied = 2 * prod(layout.phases) * problem.rows * problem.columns / costs.moved_bytes_per_cycle
    begun = layout.tiles * costs.tile_cycles
    return problem.batch * problem.channels * (product + stored + copied + begun) / target.cores


def schedule(sch: Schedule, tile: DepthwiseTile, target: Target) -> None:
    """Rewrites `depthwise`, and the elementwise chain fused behind it: a channel a thread, whose plane stays in the
    first cache.
    """
    problem = problem_of(sch)
    layout, dot = problem.layout, problem.dot
    planes, product, rounded, ordered, result = (
        find_block(sch, name) for name in (PLANES, NAME, ROUNDED, ORDERED, RESULT)
    )

    # 1. Outputs, a tile of rows at a time.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    if rounded is not None and not moves_only(sch, epilogue):
        sch.compute_inline(rounded)
        rounded = None
    image, channel, h, w = sch.get_loops(epilogue)
    tiles, _ = sch.split(h, [None, layout.rows])
    read_whole_runs(sch, epilogue, ORDERED, layout)
    sch.compute_at(ordered, tiles, preserve_unit_loops=True)
    if rounded is None:
        split_lanes(sch, w, dot.lanes)
    else:
        copy_whole(sch, w)

    # 2. Sums of a few vectors in registers, then in order.
    positions = sch.get_loops(ordered)[-1]
    part, vector, lane, _ = sch.split(positions, [None, tile.vectors, dot.lanes, problem.outputs])
    if rounded is not None:
        sch.compute_at(rounded, part, preserve_unit_loops=True)
        sch.set_scope(rounded, 0, "local")
        f, i = sch.get_loops(rounded)[-2:]
        unrolled_vector(sch, [f, *sch.split(i, [None, dot.lanes])])
    sch.compute_at(product, part, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    sch.unroll(vector)
    interleave(sch, lane)
    f, i, r, u, j = sch.get_loops(product)[-5:]
    i, pixel = sch.split(i, [None, dot.lanes])
    sch.reorder(r, u, f, i, pixel, j)

    # 3. The planes, padded: of several channels, so that their rows have left for the cache when vectors are loaded.
    channels, channel = sch.split(channel, [None, together(problem, target)])
    sch.compute_at(planes, channels, preserve_unit_loops=True)
    _, column = sch.split(sch.get_loops(planes)[-1], [None, problem.columns])
    copy_padded(sch, column, layout.padding[1], layout.image[1])

    # 4. Threads; then the zeroing leaves the sum, and what is left of it is dot products.
    sch.parallel(sch.fuse(image, channels))
    for loop in (r, u, f, i):
        sch.unroll(loop)
    sum_up(sch, product, r, pixel, dot)
    finish(sch, target)


def together(problem: DepthwiseProblem, target: Target) -> int:
    """Channels whose planes are made at a time: what half of the first cache holds."""
    plane = prod(problem.layout.phases) * problem.rows * problem.columns * BYTES[problem.dot.x]
    most = max(1, min(MOST_TOGETHER, target.l1_bytes // 2 // plane))
    shares = [count for count in divisors(problem.channels, most) if problem.channels // count >= target.cores]
    return max(shares, default=1)


class PlanarDepthwise(Kernel):
    """Takes depthwise layers of integers whose taps lie side by side, with strides that divide a group of them."""

    name = NAME
    dtypes = ("uint8", "int8")
    rounds = True

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        dot = dot_of(target)
        fits = layer.dilation[1] == 1 and dot.group % layer.stride[1] == 0
        if not layer.depthwise or layer.linear or layer.dtype != dot.activation or not fits:
            return
        batch, height, width = layer.image
        lanes = dot.lanes * dot.group // layer.stride[1]  # positions are whole vectors of every output of a lane
        fixed = (layer.input_image, (height, width), layer.kernel, layer.stride, layer.padding[:2], layer.dilation)
        found = [Layout(*fixed, lanes, rows) for rows in divisors(height, height)]
        found = [each for each in found if each.run <= MOST_POSITIONS] or found[:1]
        problems = [DepthwiseProblem(batch, layer.channels, each, dot) for each in found]
        problem = min(problems, key=lambda each: least_cycles(self, each, target))
        yield Form(self, layer, problem, None, "planar depthwise", least_cycles(self, problem, target), rank=0)

    def pack(self, form: Form) -> list[np.ndarray]:
        problem, weight = form.problem, form.layer.weight[:, 0]  # [C, R, Q]
        channels, rows, taps = weight.shape
        group, parts = problem.dot.group, problem.parts
        filled = np.pad(weight, [(0, 0), (0, 0), (0, parts * group - taps)])
        return [filled.reshape(channels, rows, parts, group).astype(problem.dot.w)]

    def call(
        self,
        builder: relax.BlockBuilder,
        x: relax.Expr,
        weights: Sequence[relax.Expr],
        form: Form,
        marks: dict,
        rounding: Rounding | None = None,
    ) -> relax.Expr:
        options = {"problem": form.problem, "zero_point": form.layer.zero_point, "rounding": rounding, "marks": marks}
        return fusable_call(builder, NAME, depthwise, x, *weights, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)


KERNEL = PlanarDepthwise()
