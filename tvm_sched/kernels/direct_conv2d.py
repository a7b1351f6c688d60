"""Direct convolution over 1xN blocks: lanes over the N output channels of a block, NHWC.

    y[b, h, w, g*N + lane] = sum_{k, r, q} data[g, k, r, q, lane] * x[b, h*S + r*D - P, w*S + q*D - P, indices[g, k]]

`x [B, H, W, C]`, `data [G, K, R, Q, N]`, `indices [G, K]` int32 and sorted in each row, `y [B, H', W', O]`, G = ceil(O
/ N). Every group does the same work, so equal ranges of groups or of rows are equal work for a thread. Without indices
all C channels are kept: the same kernel is the dense convolution. A linear layer is the case of a 1x1 image.
"""

from math import gcd, prod

from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import IndexMap

from tvm_sched.kernels.register_tile import Tile, Work, candidates
from tvm_sched.kernels.rewrites.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.rewrites.loops import output_size, partition, prefetch_weights
from tvm_sched.targets import Target

NAME = "direct_conv2d"
CHANNELS_TOGETHER = 4  # that a step of short vectors multiplies


def conv2d(x, data, indices=None, *, out_channels, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """The algorithm, free of any order. `padding` is (top, left, bottom, right).

    Where N does not divide `out_channels`, the last group is padded with zero weights and its surplus is cut off.
    """
    batch, height, width, channels = x.shape
    groups, kept, kernel_h, kernel_w, n = (int(extent) for extent in data.shape)
    out_height, out_width = output_size((height, width), (kernel_h, kernel_w), stride, padding, dilation)
    if any(padding):
        x = pad(x, padding)
    k, r, q = te.reduce_axis((0, kept), "k"), te.reduce_axis((0, kernel_h), "r"), te.reduce_axis((0, kernel_w), "q")

    def product(b, h, w, o):
        channel = indices[o // n, k] if indices is not None else k
        pixel = x[b, h * stride[0] + r * dilation[0], w * stride[1] + q * dilation[1], channel]
        return te.sum(data[o // n, k, r, q, o % n] * pixel, axis=[k, r, q])

    image = (int(batch), int(out_height), int(out_width))
    work = Work(
        *image, int(channels), groups, kept, n, (kernel_h, kernel_w), tuple(stride), any(padding), indices is not None
    )
    y = te.compute((batch, out_height, out_width, groups * n), product, name=NAME, attrs=work.attributes())
    return cut(y, out_channels)


def linear(x, data, indices=None, *, out_channels):
    """The same for `x [..., C]` of any rank and `data [G, K, 1, 1, N]`: a pixel is a row."""
    *rows, channels = x.shape
    groups, kept, _, _, n = (int(extent) for extent in data.shape)
    k = te.reduce_axis((0, kept), "k")

    def product(*position):
        *row, o = position
        channel = indices[o // n, k] if indices is not None else k
        return te.sum(data[o // n, k, 0, 0, o % n] * x[(*row, channel)], axis=k)

    work = Work(1, 1, prod(map(int, rows)), int(channels), groups, kept, n, indexed=indices is not None)
    return cut(te.compute((*rows, groups * n), product, name=NAME, attrs=work.attributes()), out_channels)


def pad(x, padding):
    """Zeros around the image."""
    batch, height, width, channels = x.shape
    top, left, bottom, right = padding

    def pixel(b, h, w, c):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, x[b, h - top, w - left, c], tirx.const(0, x.dtype))

    return te.compute((batch, height + top + bottom, width + left + right, channels), pixel, name="pad")


def cut(y, out_channels):
    """The first `out_channels` channels."""
    if int(y.shape[-1]) == out_channels:
        return y
    return te.compute((*y.shape[:-1], out_channels), lambda *position: y(*position), name="cut")


def tiles(sch: Schedule, target: Target) -> list[Tile] | None:
    """The tiles worth trying for this function, best guess first; None if it is not this kernel's."""
    conv = find_block(sch, NAME)
    return conv and candidates(Work.of_block(sch.get(conv).annotations), target)


def schedule(sch: Schedule, tile: Tile, target: Target):
    """Rewrites `compute`, and the elementwise chain fused behind it, into register tiles."""
    conv = find_block(sch, NAME)
    work = Work.of_block(sch.get(conv).annotations)

    # 1. Bias, residual and activation become one block that reads the sums from registers.
    epilogue = merge_epilogue(sch, conv)
    if work.flat:
        flatten_pixels(sch, conv, epilogue)

    # 2. Outside, what threads share: bands of the image and groups. Inside, the tiles of a band; in a tile, the sum; in
    # the sum, registers.
    loops = sch.get_loops(conv)
    pixels, o, sum_loops = (loops[:1], *loops[1:2], loops[2:]) if work.flat else (loops[:3], *loops[3:4], loops[4:])
    group, lane = sch.split(o, [None, work.n])
    group, group_inner = sch.split(group, [None, tile.groups])
    if work.flat:
        band, col, col_inner = split_bands(sch, *pixels, tile.bands, tile.cols)
        outer, tile_loops, inner = [band, group], [col], [group_inner, col_inner]
    else:
        image, h, w = pixels
        band, row, row_inner = split_bands(sch, h, tile.bands, tile.rows)
        col, col_inner = sch.split(w, [None, tile.cols])
        outer, tile_loops, inner = [image, band, group], [row, col], [group_inner, row_inner, col_inner]
    if work.n < target.lanes and not work.flat:
        # Short vectors take two scalars a cycle, which L1 gives only from different banks: a pixel's neighbours in the
        # sum, not its row's.
        kept, *taps = sum_loops
        kept, together = sch.split(kept, [None, gcd(work.kept, CHANNELS_TOGETHER)])
        sum_loops, inner = [kept, *taps], [*inner, together]
    sch.reorder(*outer, *tile_loops, *sum_loops, *inner, lane)
    sch.reverse_compute_at(epilogue, col, preserve_unit_loops=True)

    # 3. Registers: lanes are a vector, the rest of the tile is unrolled. A last tile that is cut short gets code of its
    # own.
    sch.vectorize(lane)
    for loop in inner:
        sch.unroll(loop)
    *epilogue_pixels, o = sch.get_loops(epilogue)[len(outer) + len(tile_loops) :]
    group, lane = sch.split(o, [None, min(work.n, int(sch.get(o).extent))])
    sch.reorder(group, *epilogue_pixels, lane)
    sch.vectorize(lane)
    for loop in (group, *epilogue_pixels):
        sch.unroll(loop)
    if work.image[-1] % tile.cols:
        partition(sch, col)

    # 4. Threads; then the zeroing leaves the sum (the last step: it ends what a schedule may do to the sum).
    sch.parallel(sch.fuse(*outer))
    if work.padded:
        schedule_padding(sch, work, target)
    prefetch_weights(sch, sum_loops[0])
    sch.decompose_reduction(conv, sum_loops[0])
    finish(sch, target)


def flatten_pixels(sch: Schedule, conv, epilogue):
    """Makes all axes but the channels one pixel axis, in both blocks and in the sums between them."""
    *extents, _ = (int(extent) for extent in sch.get(conv).writes[0].source.shape)
    rank = len(extents)
    if rank == 0:
        sch.add_unit_loop(sch.get_loops(conv)[0])
    if rank <= 1:
        return
    steps = [prod(extents[axis + 1 :]) for axis in range(rank)]

    def pixel(*axes):
        return [sum(axis * step for axis, step in zip(axes, steps)), *axes[rank:]]

    sch.transform_layout(conv, ("write", 0), pixel)
    for block in (conv, epilogue):
        axes = sch.get(block).iter_vars
        sch.transform_block_layout(
            block, IndexMap.from_func(pixel, ndim=len(axes), index_dtype=str(axes[0].var.ty.dtype))
        )


def split_bands(sch: Schedule, loop, bands: int, inner: int):
    """[band, tile in band, pixel in tile]; only a single band may end in a tile that is cut short."""
    if bands == 1:
        outer, inner = sch.split(loop, [None, inner])
        band, outer = sch.split(outer, [1, None])
        return band, outer, inner
    return sch.split(loop, [bands, None, inner])


def schedule_padding(sch: Schedule, work: Work, target: Target):
    """Copies the image a row a thread; its pixels are spaced apart where a multiple of 512 bytes would put them into
    few sets of L1.
    """
    pad = find_block(sch, "pad")
    image, h, w, c = sch.get_loops(pad)
    if work.channels * work.stride[1] % 128 == 0:
        sch.storage_align(pad, 0, axis=2, factor=32, offset=16)
    if work.channels % target.lanes == 0:
        _, lane = sch.split(c, [None, target.lanes])
        sch.vectorize(lane)
    sch.parallel(sch.fuse(image, h))
