"""Depthwise convolution: every channel has a kernel of its own; lanes over channels, NHWC.

    y[b, h, w, c] = sum_{r, q} weight[r, q, c] * x[b, h*S + r*D - P, w*S + q*D - P, c]

`x [B, H, W, C]`, `weight [R, Q, C]`, `y [B, H', W', C]`. An output takes only R*Q multiply-adds, so loads decide:
neighbouring outputs are computed together, so that an input is loaded once for all of them, and the padding is not
copied: the tiles at the edges get code of their own, in which the taps outside the image are gone. (With several
outputs a channel the lanes would gather their inputs: such a layer is left to the block-sparse kernels, which skip what
is outside its groups and were 1.2 to 1.4 times faster where measured.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.base import MOST_TILES, Example, Form, Kernel, Savings, fusable_call, least_cycles
from tvm_sched.kernels.conv_problem import output_size
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.rewrites.loops import partition, pieces
from tvm_sched.targets import Target

NAME = "depthwise_conv2d"
STRIDE = "work.stride"  # attribute of the block
MOST_SUMS = 8  # in registers: with more of them, the inputs that the sums share no longer fit beside them


@dataclass(frozen=True)
class DepthwiseProblem:
    """Sizes of the output, `[batch, height, width, channels]`, and of the kernel."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]


def compute(
    x: te.Tensor,
    weight: te.Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `padding`: top, left, bottom, right; `marks` become the block's attributes."""
    batch, height, width, channels = (int(extent) for extent in x.shape)
    kernel_h, kernel_w, _ = (int(extent) for extent in weight.shape)
    top, left, _, _ = padding
    out_height, out_width = output_size((height, width), (kernel_h, kernel_w), stride, padding, dilation)
    r, q = te.reduce_axis((0, kernel_h), "r"), te.reduce_axis((0, kernel_w), "q")

    def product(b, h, w, c):
        row, col = h * stride[0] + r * dilation[0] - top, w * stride[1] + q * dilation[1] - left
        pixel = x[b, row, col, c]
        if any(padding):
            inside = tirx.all(row >= 0, row < height, col >= 0, col < width)
            pixel = tirx.if_then_else(inside, pixel, tirx.const(0, x.dtype))
        return te.sum(weight[r, q, c] * pixel, axis=[r, q])

    attributes = {STRIDE: list(stride)} | (marks or {})
    return te.compute((batch, out_height, out_width, channels), product, name=NAME, attrs=attributes)


@dataclass(frozen=True)
class DepthwiseTile:
    """`rows x cols` output pixels computed together; threads share `bands` of the tiles of an image's height by `parts`
    of its vectors of channels.
    """

    rows: int
    cols: int
    bands: int
    parts: int = 1

    def __str__(self) -> str:
        parts = f" x {self.parts} parts of the channels" if self.parts > 1 else ""
        return f"{self.rows}x{self.cols} pixels, {self.bands} bands{parts}"


def problem_of(sch: Schedule) -> DepthwiseProblem:
    """What the function computes."""
    conv = find_block(sch, NAME)
    batch, height, width, channels, rows, columns = (int(sch.get(loop).extent) for loop in sch.get_loops(conv))
    down, right = map(int, sch.get(conv).annotations[STRIDE])
    return DepthwiseProblem(batch, height, width, channels, (rows, columns), (down, right))


def tiles(problem: DepthwiseProblem, target: Target, most: int = MOST_TILES) -> list[DepthwiseTile]:
    """Those that load the fewest inputs first."""
    height, width, channels = problem.height, problem.width, problem.channels
    vector = vector_width(channels, target.lanes)
    most_sums = MOST_SUMS // ceil(vector / target.lanes) if channels % vector == 0 else 1

    def loads(tile: DepthwiseTile) -> int:
        rows = (tile.rows - 1) * problem.stride[0] + problem.kernel[0]
        cols = (tile.cols - 1) * problem.stride[1] + problem.kernel[1]
        return ceil(height / tile.rows) * ceil(width / tile.cols) * rows * cols

    found = [
        DepthwiseTile(rows, cols, *pieces(problem.batch, ceil(height / rows), ceil(channels / vector), target.cores))
        for rows in range(1, min(height, most_sums, 4) + 1)
        for cols in range(1, min(width, most_sums // rows) + 1)
    ]
    return sorted(found, key=lambda tile: (loads(tile), tile.rows))[:most]


def cycles(problem: DepthwiseProblem, tile: DepthwiseTile, target: Target, fma_cycles: float | None = None) -> float:
    """Multiply-adds alone: loads are counted by what a multiply-add takes in the main loop, where that is known."""
    vector = vector_width(problem.channels, target.lanes)
    vectors = ceil(problem.channels / vector) * ceil(vector / target.lanes)
    pixels = ceil(problem.height / tile.rows) * tile.rows * ceil(problem.width / tile.cols) * tile.cols
    sums = problem.batch * pixels * vectors * prod(problem.kernel)
    shares = problem.batch * tile.bands * tile.parts
    return sums * (fma_cycles or 1 / target.fma_per_cycle) * ceil(shares / target.cores) / shares


def vector_width(channels: int, lanes: int) -> int:
    """Channels in a vector: a divisor of `channels`, because a last vector that is cut short costs a test a lane.

    Registers filled exactly, or half, are best; else as many as two registers hold. `lanes` if no divisor fills a
    quarter of a register.
    """
    fitting = [width for width in range(lanes // 4, 2 * lanes + 1) if channels % width == 0]
    return next((width for width in (lanes, lanes // 2) if width in fitting), max(fitting, default=lanes))


def schedule(sch: Schedule, tile: DepthwiseTile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it, into tiles of pixels by one vector of channels."""
    conv = find_block(sch, NAME)

    # 1. Bias, residual and activation become one block that reads the sums from registers.
    epilogue = merge_epilogue(sch, conv)

    # 2. Bands and parts of the channels are for threads. Inside: tiles, the vectors of a tile's channels, the taps, and
    # the sums of one vector.
    image, h, w, o, r, q = sch.get_loops(conv)
    vector, lane = sch.split(o, [None, vector_width(int(sch.get(o).extent), target.lanes)])
    part, vector = sch.split(vector, [tile.parts, None])
    row, row_inner = sch.split(h, [None, tile.rows])
    band, row = sch.split(row, [tile.bands, None])
    col, col_inner = sch.split(w, [None, tile.cols])
    sch.reorder(image, band, part, row, col, vector, r, q, row_inner, col_inner, lane)
    sch.reverse_compute_at(epilogue, vector, preserve_unit_loops=True)

    # 3. Everything in a tile is unrolled, so that an input that several sums share is loaded once.
    *pixels, o = sch.get_loops(epilogue)[6:]
    for loop in (lane, o):
        sch.vectorize(loop)
    for loop in (r, q, row_inner, col_inner, *pixels):
        sch.unroll(loop)

    # 4. Tiles at the image's edges get code of their own: no test is left in the others.
    for loop in (row, col):
        partition(sch, loop)
    sch.parallel(sch.fuse(image, band, part))
    sch.decompose_reduction(conv, r)
    finish(sch, target)


class DepthwiseConv2d(Kernel):
    """Takes convolutions with one kernel a channel. A block would have one input channel: there is nothing to skip."""

    name = NAME
    examples = (Example(1, False, 3), Example(1, False, 3, 2))

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        if layer.depthwise:
            batch, height, width = layer.image
            problem = DepthwiseProblem(batch, height, width, layer.channels, layer.kernel, layer.stride)
            yield Form(self, layer, problem, None, "depthwise", least_cycles(self, problem, target), rank=0)

    def why(self, layer: Layer, form: Form) -> str:
        return "depthwise: a block has one input channel, nothing to skip"

    def savings(self, layer: Layer, form: Form) -> Savings:
        return Savings(None, 1.0, 1, 1, layer.macs)

    def pack(self, form: Form) -> list[np.ndarray]:
        """`[R, Q, C]`"""
        return [form.layer.weight[:, 0].transpose(1, 2, 0)]

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        layer = form.layer
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return fusable_call(builder, NAME, compute, x, *weights, marks=marks, **geometry)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def loop_key(self, problem: DepthwiseProblem, tile: DepthwiseTile) -> tuple:
        return NAME, problem.kernel, problem.stride, problem.channels % 4, tile.rows, tile.cols


KERNEL = DepthwiseConv2d()
