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
from math import ceil, gcd, prod

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels.base import MOST_TILES, Example, Form, Kernel, Savings, fusable_call, least_cycles
from tvm_sched.kernels.conv_problem import output_size
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ownership import foreign_cycles
from tvm_sched.kernels.ranking import rounded
from tvm_sched.kernels.rewrites.loops import bands, partition, pieces, start_with_product
from tvm_sched.targets import Target

NAME = "depthwise_conv2d"
STRIDE = "work.stride"  # attribute of the block
COPIED = 8  # vectors of channels: pixels half a KiB long are read from the second cache as fast as all at once
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
    of its vectors of channels. `copied`: so many vectors of channels, a part, are copied into one piece before they are
    read; 0 for none.
    """

    rows: int
    cols: int
    bands: int
    parts: int = 1
    copied: int = 0

    def __str__(self) -> str:
        parts = f" x {self.parts} parts of the channels" if self.parts > 1 else ""
        return f"{self.rows}x{self.cols} pixels, {self.bands} bands{parts}{', copied' if self.copied else ''}"


def problem_of(sch: Schedule) -> DepthwiseProblem:
    """What the function computes."""
    conv = find_block(sch, NAME)
    batch, height, width, channels, rows, columns = (int(sch.get(loop).extent) for loop in sch.get_loops(conv))
    down, right = map(int, sch.get(conv).annotations[STRIDE])
    return DepthwiseProblem(batch, height, width, channels, (rows, columns), (down, right))


def tiles(problem: DepthwiseProblem, target: Target, most: int = MOST_TILES) -> list[DepthwiseTile]:
    """Those with the cheapest estimate first; among equals those that load the fewest inputs and weights."""
    height, width, channels = problem.height, problem.width, problem.channels
    vector = vector_width(channels, target.lanes)
    most_sums = MOST_SUMS // ceil(vector / target.lanes) if channels % vector == 0 else 1
    blocks = [0]  # vectors that are copied together
    if channels % (vector * COPIED) == 0 and overflows(problem, target):
        blocks.append(COPIED)

    def shared(rows: int, copied: int) -> set[tuple[int, int]]:
        """(bands, parts) of so many rows of tiles: few bands, or a band a row, and the parts of channels that make them
        equal work. What is copied together is one part.
        """
        if copied:
            parts = channels // vector // copied
            return {(bands(rows, ceil(target.cores / problem.batch / each)), parts) for each in (1, parts)}
        few = bands(rows, ceil(target.cores / problem.batch))
        each = {
            (count, pieces(problem.batch * count, 1, ceil(channels / vector), target.cores)[1])
            for count in (1, few, rows)
        }
        return each | {(few, 1)}

    def preference(tile: DepthwiseTile) -> tuple:
        """Row by row, tall tiles: their sums are stored while others are computed."""
        tall = -tile.rows if by_rows(problem, tile, target) else tile.rows
        return rounded(cycles(problem, tile, target)), loads(problem, tile), tall

    found = [
        DepthwiseTile(rows, cols, *cut, copied)
        for copied in blocks
        for rows in range(1, min(height, most_sums, 4) + 1)
        for cut in sorted(shared(ceil(height / rows), copied))
        for cols in range(1, min(width, most_sums // rows) + 1)
    ]
    return sorted(found, key=preference)[:most]


def loads(problem: DepthwiseProblem, tile: DepthwiseTile) -> int:
    """Vectors that all tiles of an image load, for one vector of channels. What is outside the image is not loaded; it
    is taken to be as large as its outputs times the stride, padded evenly.
    """

    def inputs(outputs: int, together: int, stride: int, taps: int) -> int:
        before, total = (taps - 1) // 2, 0
        for start in range(0, outputs, together):
            last = min(start + together, outputs) - 1
            total += min(last * stride - before + taps, outputs * stride) - max(start * stride - before, 0)
        return total

    rows = inputs(problem.height, tile.rows, problem.stride[0], problem.kernel[0])
    cols = inputs(problem.width, tile.cols, problem.stride[1], problem.kernel[1])
    tiles_of_image = ceil(problem.height / tile.rows) * ceil(problem.width / tile.cols)
    return rows * cols + tiles_of_image * prod(problem.kernel)


def input_size(problem: DepthwiseProblem, rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns of the inputs of so many outputs."""
    return (rows - 1) * problem.stride[0] + problem.kernel[0], (cols - 1) * problem.stride[1] + problem.kernel[1]


def by_rows(problem: DepthwiseProblem, tile: DepthwiseTile, target: Target) -> bool:
    """Whether registers hold, beside the weights and a row's sums, the inputs that a row shares with the next: a row is
    then finished before the next one begins. Else all sums of the tile take one tap after another.
    """
    _, columns = input_size(problem, tile.rows, tile.cols)
    vectors = ceil(vector_width(problem.channels, target.lanes) / target.lanes)
    held = problem.kernel[0] * columns + prod(problem.kernel) + tile.cols
    return vectors * held <= target.registers


def overflows(problem: DepthwiseProblem, target: Target) -> bool:
    """Whether the lines of a tile's inputs, outputs and weights hit one set of L1 more often than it has ways, which
    pixels a multiple of a large power of two apart do.
    """
    way = target.l1_bytes // target.l1_ways
    sets_hit = way // gcd(way, problem.channels * target.number_bytes)
    lines = prod(input_size(problem, 2, MOST_SUMS // 2)) + MOST_SUMS + prod(problem.kernel)
    return lines > sets_hit * target.l1_ways


def cycles(problem: DepthwiseProblem, tile: DepthwiseTile, target: Target, fma_cycles: float | None = None) -> float:
    """Multiply-adds, and copying: loads are counted by what a multiply-add takes in the main loop, where that is known,
    and as a factor where they miss L1.
    """
    vector = vector_width(problem.channels, target.lanes)
    vectors = ceil(problem.channels / vector) * ceil(vector / target.lanes)
    pixels = problem.batch * problem.height * problem.width * vectors
    work = pixels * prod(problem.kernel) * (fma_cycles or 1 / target.fma_per_cycle)
    if tile.copied:  # a band with the rows beside it
        image = problem.height * problem.stride[0]
        rows, _ = input_size(problem, rows_of_band(problem, tile), problem.width)
        copied = (
            problem.batch * tile.bands * min(rows, image) * problem.width * min(problem.stride[1], problem.kernel[1])
        )
        work += copied * vectors * target.costs.copy_cycles
    elif overflows(problem, target):
        work *= target.costs.set_overflow_factor
    shares = problem.batch * tile.bands * tile.parts
    mine = ceil(shares / target.cores) * rows_of_band(problem, tile)  # of the busiest thread
    whole = problem.batch * problem.height * problem.width
    foreign = foreign_cycles(whole * problem.channels, whole, problem.batch * tile.bands, target)
    return work * mine / (problem.batch * problem.height * tile.parts) + foreign


def rows_of_band(problem: DepthwiseProblem, tile: DepthwiseTile) -> int:
    """Of outputs, in a whole band."""
    return min(problem.height, ceil(problem.height / tile.rows) // tile.bands * tile.rows)


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
    problem = problem_of(sch)

    # 1. Bias, residual and activation become one block that reads the sums from registers.
    epilogue = merge_epilogue(sch, conv)

    # 2. Bands and parts of the channels are for threads. In a part: tiles, the vectors of a tile's channels, the taps,
    # and the sums of one vector, or of a row of it.
    image, h, w, o, r, q = sch.get_loops(conv)
    vector, lane = sch.split(o, [None, vector_width(problem.channels, target.lanes)])
    part, vector = sch.split(vector, [tile.parts, None])
    row, row_inner = sch.split(h, [None, tile.rows])
    band, row = sch.split(row, [tile.bands, None])
    col, col_inner = sch.split(w, [None, tile.cols])
    outer, tiles_of_band = [image, band, part], [row, col, vector]
    rows = by_rows(problem, tile, target)
    step = [row_inner, r, q, col_inner] if rows else [r, q, row_inner, col_inner]
    sch.reorder(*outer, *tiles_of_band, *step, lane)
    around = [*outer, *tiles_of_band, *([row_inner] if rows else [])]
    sch.reverse_compute_at(epilogue, around[-1], preserve_unit_loops=True)

    # 3. Pixels that would meet in one set of L1 are copied into one piece.
    if tile.copied:
        copy_input(sch, conv, part, target)

    # 4. Everything in a tile is unrolled, so that an input that several sums share is loaded once.
    *pixels, o = sch.get_loops(epilogue)[len(around) :]
    for loop in (lane, o):
        sch.vectorize(loop)
    for loop in (*step, *pixels):
        sch.unroll(loop)

    # 5. Tiles at the image's edges get code of their own: no test is left in the others.
    for loop in (row, col):
        partition(sch, loop)
    sch.parallel(sch.fuse(*outer))
    start_with_product(sch, conv)
    finish(sch, target)


def copy_input(sch: Schedule, conv: SBlockRV, loop: LoopRV, target: Target) -> None:
    """In each step of the loop, copies what the step reads of the image."""
    (image,) = [i for i, read in enumerate(sch.get(conv).reads) if len(read.source.shape) == 4]
    copy = sch.cache_read(conv, image, "global")
    sch.compute_at(copy, loop, preserve_unit_loops=True)
    vector, lane = sch.split(sch.get_loops(copy)[-1], [None, target.lanes])
    sch.vectorize(lane)
    sch.unroll(vector)


class DepthwiseConv2d(Kernel):
    """Takes convolutions with one kernel a channel. A block would have one input channel: there is nothing to skip."""

    name = NAME
    dtypes = ("float32", "float16")
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
        return NAME, problem.kernel, problem.stride, problem.channels % 4, tile.rows, tile.cols, tile.copied


KERNEL = DepthwiseConv2d()
