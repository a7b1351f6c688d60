"""1x1 convolution over 1xN blocks of few channels: lanes over pixels. Where N is less than a vector, lanes over N would be wasted.

    V[c, p] = x[p, c]                                                input, transposed
    M[g*N + l, p] = sum_k data[g, k, l] * V[indices[g, k], p]        a vector of V is loaded once for N multiply-adds
    y[p, o] = M[o, p]                                                transposed back

`x [P, C]`, `data [G, K, 1, 1, N]`, `indices [G, K]` int32, `y [..., G*N]` of P rows. A tile of pixels passes through all three stages in cache;
bias, residual and activation are applied with lanes over channels, as outputs are stored. Pixels come in vectors of `lanes`; where that does not
divide P the last vector begins early, at pixel P - lanes.
"""

from dataclasses import dataclass
from math import ceil, gcd, log, prod

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.direct_conv2d import flatten_pixels
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.loops import partition
from tvm_sched.kernels.register_tile import FLOAT, Work, divisors, transfer
from tvm_sched.kernels.transpose import COLS, transpose
from tvm_sched.targets import Target

NAME = "pixel_lanes_conv2d"  # the block of products; the other stages' blocks are named after what they make
INPUT, OUTPUT, ROWS = (f"pixel_lanes_{stage}" for stage in ("input", "output", "rows"))


def compute(x, data, indices=None, *, shape, lanes):
    """The algorithm, free of any order. `shape` is that of y; `lanes` pixels are a vector."""
    pixels, channels = (int(extent) for extent in x.shape)
    groups, kept, _, _, n = (int(extent) for extent in data.shape)
    vectors = ceil(pixels / lanes)
    surplus = vectors * lanes - pixels

    def pixel(v, c, i):
        return x[(tirx.min(v * lanes, pixels - lanes) if surplus else v * lanes) + i, c]

    k = te.reduce_axis((0, kept), "k")

    def product(v, o, i):
        # The clamp says nothing new of an index; it tells the compiler which channels a tile needs.
        channel = tirx.min(tirx.max(indices[o // n, k], 0), channels - 1) if indices is not None else k
        return te.sum(data[o // n, k, 0, 0, o % n] * transposed[v, channel, i], axis=k)

    def row(*position):
        *axes, o = position
        p = sum(axis * prod(shape[i + 1:-1]) for i, axis in enumerate(axes))
        return output[p + tirx.Select(p >= pixels // lanes * lanes, surplus, 0) if surplus else p, o]

    work = Work(1, 1, pixels, channels, groups, kept, n, indexed=indices is not None)
    transposed = te.compute((vectors, channels, lanes), pixel, name=INPUT)
    sums = te.compute((vectors, groups * n, lanes), product, name=NAME, attrs=work.attributes() | {"pixel_lanes.lanes": lanes})
    output = te.compute((vectors * lanes, groups * n), lambda p, o: sums[p // lanes, o, p % lanes], name=OUTPUT)
    return te.compute(shape, row, name=ROWS)


@dataclass(frozen=True)
class PixelTile:
    """`vectors` of pixels go through all stages together. In registers: `cols` of these vectors by `rows` channels of a block."""

    vectors: int
    cols: int
    rows: int

    def __str__(self):
        return f"{self.vectors} vectors of pixels, {self.cols} vectors x {self.rows} channels in registers"


def schedule(sch: Schedule, tile: PixelTile, target: Target):
    """Rewrites `compute`, and the elementwise chain fused behind it, into tiles of pixels that pass through all stages in cache."""
    transposed, product, output, rows = (find_block(sch, name) for name in (INPUT, NAME, OUTPUT, ROWS))
    notes = sch.get(product).annotations
    work, lanes = Work.of_block(notes), int(notes["pixel_lanes.lanes"])
    channels_out = work.groups * work.n
    height = min(8, target.lanes)
    chunk = gcd(channels_out, max(target.lanes, work.n))
    vectors = ceil(work.width / lanes)
    shared_tiles = vectors // tile.vectors >= target.cores

    epilogue = merge_epilogue(sch, rows)
    flatten_pixels(sch, rows, epilogue)
    sch.compute_inline(rows)

    # output
    exact = work.width % lanes == 0
    height = gcd(chunk, height)
    p, o = sch.get_loops(epilogue)
    band, p = sch.split(p, [None, tile.vectors * lanes] if exact else [1, None])
    chunks, o = sch.split(o, [None, chunk])
    if exact:
        p, p_inner = sch.split(p, [None, COLS])
        o, o_inner = sch.split(o, [None, height])
        sch.reorder(band, chunks, p, o, p_inner, o_inner)
        sch.unroll(p_inner)
        sch.vectorize(o_inner)
        sch.compute_at(output, o, preserve_unit_loops=True)
        sch.set_scope(output, 0, "local")
        p_inner = sch.get_loops(output)[-2]
    else:
        sch.reorder(band, chunks, p, o)
        sch.vectorize(o)
        sch.compute_at(output, chunks, preserve_unit_loops=True)
        p, o = sch.get_loops(output)[-2:]
        p, p_inner = sch.split(p, [None, COLS])
        o, o_inner = sch.split(o, [None, height])
        sch.reorder(p, o, p_inner, o_inner)

    # products
    sch.compute_at(product, chunks, preserve_unit_loops=True)
    if shared_tiles:
        sch.compute_at(transposed, band, preserve_unit_loops=True)
    *_, v, po, lane, pk = sch.get_loops(product)
    g, l_outer, l = sch.split(po, [None, work.n // tile.rows, tile.rows])
    vb, v = sch.split(v, [None, tile.cols])
    sch.reorder(g, l_outer, vb, pk, l, v, lane)
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, vb, preserve_unit_loops=True)
    *_, sv, sl, slane = sch.get_loops(sums)
    for loop in (sl, sv, l, v):
        sch.unroll(loop)
    sch.vectorize(slane)
    sch.vectorize(lane)
    if tile.vectors % tile.cols:
        partition(sch, vb)

    # input
    tv, c, lane = sch.get_loops(transposed)[-3:]
    c, c_mid, c_inner = sch.split(c, [None, gcd(work.channels // COLS, 4), COLS])
    theight = gcd(lanes, min(8, target.lanes))
    part, lane = sch.split(lane, [None, theight])
    sch.reorder(tv, c, part, c_mid, c_inner, lane)
    sch.tensorize(c_inner, transpose(theight, "global"))
    sch.tensorize(p_inner, transpose(height, "local" if exact else "global"))

    if shared_tiles:
        sch.parallel(band)
    else:
        sch.parallel(tv)
        sch.parallel(sch.fuse(band, chunks))
    sch.decompose_reduction(product, pk)
    finish(sch, target)
