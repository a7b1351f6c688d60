"""Direct convolution over 1xN blocks: lanes over the N output channels of a block, NHWC.

    y[b, h, w, g*N + lane] = sum_{k, r, q} data[g, k, r, q, lane] * x[b, h*S + r*D - P, w*S + q*D - P, indices[g, k]]

`x [B, H, W, C]`, `data [G, K, R, Q, N]`, `indices [G, K]` int32 and sorted in each row, `y [B, H', W', O]`, where
G = ceil(O / N). Every block row is the same work, so equal ranges of them, or of pixels, are equal work for a thread.
Without indices all C channels are kept: the same kernel is the dense convolution. A linear layer is the case of a 1x1
image.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from math import prod

from tvm import relax, te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.tirx import IndexMap

from subp_contract import pattern
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.base import (
    EXAMPLE_SIZES,
    STORED_ROUNDING,
    Example,
    Form,
    Kernel,
    fusable_call,
    least_cycles,
    narrow_dtype,
    widened,
)
from tvm_sched.kernels.conv_problem import ConvProblem, output_size
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.register_tile import IMMEDIATE, Tile
from tvm_sched.kernels.rewrites.loops import apart, partition, prefetch_weights, sum_in_blocks
from tvm_sched.targets import Target

NAME = "direct_conv2d"


def conv2d(
    x: te.Tensor,
    data: te.Tensor,
    indices: te.Tensor | None = None,
    *,
    out_channels: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `padding` is (top, left, bottom, right); `marks` become the block's attributes.

    Where N does not divide `out_channels`, the last block row is padded with zero weights and its surplus is cut off.
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    block_rows, kept, kernel_h, kernel_w, n = (int(extent) for extent in data.shape)
    kernel = kernel_h, kernel_w
    out_height, out_width = output_size((height, width), kernel, stride, padding, dilation)
    if any(padding):
        x = pad(x, padding)
    k, r, q = te.reduce_axis((0, kept), "k"), te.reduce_axis((0, kernel_h), "r"), te.reduce_axis((0, kernel_w), "q")

    def product(b, h, w, o):
        channel = indices[o // n, k] if indices is not None else k
        pixel = x[b, h * stride[0] + r * dilation[0], w * stride[1] + q * dilation[1], channel]
        return te.sum(widened(data[o // n, k, r, q, o % n], x.dtype) * pixel, axis=[k, r, q])

    sizes = (channels, block_rows, kept, n, kernel, stride)
    stored = narrow_dtype(data, x)
    problem = ConvProblem(batch, out_height, out_width, *sizes, any(padding), indices is not None, stored)
    attributes = problem.attributes() | (marks or {})
    y = te.compute((batch, out_height, out_width, block_rows * n), product, name=NAME, attrs=attributes)
    return cut(y, out_channels)


def linear(
    x: te.Tensor, data: te.Tensor, indices: te.Tensor | None = None, *, out_channels: int, marks: dict | None = None
) -> te.Tensor:
    """The same for `x [..., C]` of any rank and `data [G, K, 1, 1, N]`: a pixel is a row."""
    *rows, channels = (int(extent) for extent in x.shape)
    block_rows, kept, _, _, n = (int(extent) for extent in data.shape)
    k = te.reduce_axis((0, kept), "k")

    def product(*position):
        *row, o = position
        place = *row, indices[o // n, k] if indices is not None else k
        return te.sum(widened(data[o // n, k, 0, 0, o % n], x.dtype) * x[place], axis=k)

    sizes = (channels, block_rows, kept, n)
    problem = ConvProblem(1, 1, prod(rows), *sizes, indexed=indices is not None, weights=narrow_dtype(data, x))
    attributes = problem.attributes() | (marks or {})
    return cut(te.compute((*rows, block_rows * n), product, name=NAME, attrs=attributes), out_channels)


def pad(x: te.Tensor, padding: tuple[int, int, int, int]) -> te.Tensor:
    """Zeros around the image."""
    batch, height, width, channels = x.shape
    top, left, bottom, right = padding

    def pixel(b, h, w, c):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, x[b, h - top, w - left, c], tirx.const(0, x.dtype))

    return te.compute((batch, height + top + bottom, width + left + right, channels), pixel, name="pad")


def cut(y: te.Tensor, out_channels: int) -> te.Tensor:
    """The first `out_channels` channels."""
    if int(y.shape[-1]) == out_channels:
        return y
    return te.compute((*y.shape[:-1], out_channels), lambda *position: y(*position), name="cut")


def problem_of(sch: Schedule) -> ConvProblem:
    """What the function computes."""
    return ConvProblem.of_block(sch.get(find_block(sch, NAME)).annotations)


def schedule(sch: Schedule, tile: Tile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it, into register tiles."""
    conv = find_block(sch, NAME)
    problem = problem_of(sch)

    # 1. Bias, residual and activation become one block that reads the sums from registers.
    epilogue = merge_epilogue(sch, conv)
    length = problem.image[-1] // tile.bands if problem.flat else problem.image[-1]  # of a row of tiles
    cut = length % tile.cols > 0
    # A band that ends in a cut tile has an axis of its own: the tile must not go on into the next.
    apart = problem.flat and cut and tile.bands > 1
    if problem.flat:
        flatten_pixels(sch, conv, epilogue)
    if apart:
        divide_pixels(sch, conv, epilogue, length)

    # 2. Outside, what threads share: bands of the image and block rows. Inside, the tiles of a band; in a tile, the
    # sum; in the sum, registers.
    loops, axes = sch.get_loops(conv), (1 + apart if problem.flat else 3)
    pixels, o, sum_loops = loops[:axes], loops[axes], loops[axes + 1 :]
    block_row, lane = sch.split(o, [None, problem.n])
    block_row, block_row_inner = sch.split(block_row, [None, tile.block_rows])
    if problem.flat:
        if apart:
            band, (col, col_inner) = pixels[0], sch.split(pixels[1], [None, tile.cols])
        else:
            band, col, col_inner = split_bands(sch, pixels[0], tile.bands, tile.cols)
        outer, tile_loops, inner = [band, block_row], [col], [block_row_inner, col_inner]
    else:
        image, h, w = pixels
        band, row, row_inner = split_bands(sch, h, tile.bands, tile.rows)
        col, col_inner = sch.split(w, [None, tile.cols])
        outer, tile_loops, inner = [image, band, block_row], [row, col], [block_row_inner, row_inner, col_inner]
    pieces, together = register_tile.channels_in_step(problem, target)
    if pieces * together > 1:
        kept, *taps = sum_loops
        kept, piece, channel = sch.split(kept, [None, pieces, together])
        sum_loops, inner = [kept, *taps], [piece, *inner, channel]
    sch.reorder(*outer, *tile_loops, *sum_loops, *inner, lane)
    sch.reverse_compute_at(epilogue, col, preserve_unit_loops=True)

    # 3. Registers: lanes are a vector, the rest of the tile is unrolled. A last tile that is cut short gets code of its
    # own.
    sch.vectorize(lane)
    for loop in inner:
        sch.unroll(loop)
    *epilogue_pixels, o = sch.get_loops(epilogue)[len(outer) + len(tile_loops) :]
    block_row, lane = sch.split(o, [None, min(problem.n, int(sch.get(o).extent))])
    sch.reorder(block_row, *epilogue_pixels, lane)
    sch.vectorize(lane)
    for loop in (block_row, *epilogue_pixels):
        sch.unroll(loop)
    if cut:
        partition(sch, col)

    # 4. Threads; then the zeroing leaves the sum (the last step: it ends what a schedule may do to the sum).
    sch.parallel(sch.fuse(*outer))
    if problem.padded:
        schedule_padding(sch, problem, target)
    prefetch_weights(sch, sum_loops[0])
    sum_in_blocks(sch, sum_loops[0], register_tile.MOST_PRODUCTS // (pieces * together * prod(problem.kernel)), target)
    sch.decompose_reduction(conv, sum_loops[0])
    finish(sch, target)


def flatten_pixels(sch: Schedule, conv: SBlockRV, epilogue: SBlockRV) -> None:
    """Makes all axes but the channels one pixel axis, in both blocks and in the sums between them."""
    *extents, _ = (int(extent) for extent in sch.get(conv).writes[0].source.shape)
    rank = len(extents)
    if rank == 0:
        sch.add_unit_loop(sch.get_loops(conv)[0])
    if rank <= 1:
        return
    steps = [prod(extents[axis + 1 :]) for axis in range(rank)]

    def pixel(*axes):
        return [sum(axis * step for axis, step in zip(axes[:rank], steps, strict=True)), *axes[rank:]]

    sch.transform_layout(conv, ("write", 0), pixel)
    transform_axes(sch, (conv, epilogue), pixel)


def divide_pixels(sch: Schedule, conv: SBlockRV, epilogue: SBlockRV, length: int) -> None:
    """Makes the one pixel axis that there is a band's axis and one of its pixels, `length` of them: so that no tile of
    the epilogue reaches into the next band, which another thread may compute.
    """

    def banded(pixel, *axes):
        return [pixel // length, pixel % length, *axes]

    transform_axes(sch, (conv, epilogue), banded)
    sch.transform_layout(conv, ("write", 0), banded)


def transform_axes(sch: Schedule, blocks: Sequence[SBlockRV], new: Callable) -> None:
    """Gives each block the axes that `new` makes of its own."""
    for block in blocks:
        axes = sch.get(block).iter_vars
        index = IndexMap.from_func(new, ndim=len(axes), index_dtype=str(axes[0].var.ty.dtype))
        sch.transform_block_layout(block, index)


def split_bands(sch: Schedule, loop: LoopRV, bands: int, inner: int) -> list[LoopRV]:
    """[band, tile in band, pixel in tile]; only a single band may end in a tile that is cut short."""
    band, rest = sch.split(loop, [bands, None])
    return [band, *sch.split(rest, [None, inner])]


def schedule_padding(sch: Schedule, problem: ConvProblem, target: Target) -> None:
    """Copies the image a row a thread; its pixels are spaced apart where a multiple of 512 bytes would put them into
    few sets of L1.
    """
    pad = find_block(sch, "pad")
    image, h, _, c = sch.get_loops(pad)
    if problem.channels * problem.stride[1] * target.number_bytes % 512 == 0:
        apart(sch, pad, 2, target)
    if problem.channels % target.lanes == 0:
        _, lane = sch.split(c, [None, target.lanes])
        sch.vectorize(lane)
    sch.parallel(sch.fuse(image, h))


class DirectConv2d(Kernel):
    """Takes every layer but depthwise ones, with blocks of every size."""

    name = NAME
    dtypes = ("float32", "float16")
    examples = tuple(
        Example(n, sparse, size, stride)
        for n in EXAMPLE_SIZES
        for sparse in (True, False)
        for size, stride in ((1, 1), (1, 2), (3, 1), (3, 2))
    )

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        for n, weights in () if layer.depthwise else itertools.product(pattern.SIZES, layer.weight_types):
            problem = layer.problem(n, weights)
            told = ("direct", least_cycles(self, problem, target), 0)
            yield Form(self, layer, problem, n, *told, rounding=STORED_ROUNDING[weights], weights=weights)

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        layer, options = form.layer, {"out_channels": form.layer.out_channels, "marks": marks}
        if not layer.linear:
            options |= {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        compute = linear if layer.linear else conv2d
        return fusable_call(builder, NAME, compute, x, *weights, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(register_tile.candidates)
    cycles = staticmethod(register_tile.cycles)
    schedule = staticmethod(schedule)

    def copying_cycles(self, problem: ConvProblem, target: Target) -> float:
        if not problem.padded:
            return 0.0
        pixels = problem.batch * prod(problem.stride) * problem.height * problem.width
        moved = 2 * pixels * problem.channels * target.number_bytes
        return moved / target.costs.moved_bytes_per_cycle / target.cores

    def loop_key(self, problem: ConvProblem, tile: Tile) -> tuple:
        near = tile.rows == 1 and (tile.cols - 1) * problem.stride[1] * problem.channels <= IMMEDIATE
        sizes = (problem.n, problem.indexed, problem.kernel, problem.stride, problem.padded, problem.weights)
        return (NAME, *sizes, tile.rows, tile.cols, tile.block_rows, near)


KERNEL = DirectConv2d()
