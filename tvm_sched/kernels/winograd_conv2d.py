"""Winograd convolution over 1xN blocks: r x r kernels of stride 1, NHWC, past what direct convolution can reach.

F(m, r) computes an m x m tile of outputs from an e x e tile of inputs, e = m + r - 1, with e*e multiplications a
channel instead of r*r * m*m (Lavin and Gray, arXiv 1509.09308). Its transforms act on each kernel alone, so a pruned
block stays pruned, and between the transforms stand e*e small block-sparse products, each the 1x1 kernel of
`direct_conv2d`. Strided layers come here by way of `phases`.

    V[i, j, t, c]       = B^T x[t] B                                        input tile t
    M[i, j, t, g*N + l] = sum_k U[i, j, g, k, l] * V[i, j, t, indices[g, k]]
    y[t]                = A^T M[:, :, t] A                                   output tile t

`x [B, H, W, C]`, `U [e, e, G, K, N]` = G w G^T (`transform_weight`, once), `indices [G, K]`, `y [B, H', W', G*N]`.
Bands of tiles pass through all three stages while they are in cache; padding is done as pixels are loaded, bias,
residual and activation as outputs are stored.
"""

from dataclasses import dataclass, replace
from math import ceil, log

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.register_tile import (
    FLOAT,
    L2_BYTES_PER_CYCLE,
    Tile,
    Work,
    candidates,
    cycles,
    divisors,
)
from tvm_sched.kernels.rewrites.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.rewrites.loops import partition, prefetch_weights
from tvm_sched.targets import Target

NAME = "winograd_conv2d"  # the block of products; the other stages' blocks are named after what they make
PIXELS, HALF_INPUT, INPUT, HALF_OUTPUT, OUTPUT = (
    f"winograd_{stage}" for stage in ("pixels", "half_input", "input", "half_output", "output")
)


@dataclass(frozen=True)
class Form:
    """F(m, r) for the interpolation points 0, 1, -1 (and 2, -2) and infinity. Common subexpressions are written alike:
    they are computed once.
    """

    m: int
    taps: int  # r

    def __str__(self):
        return f"F({self.m},{self.taps})"

    @property
    def size(self) -> int:
        """e: rows of an input tile."""
        return self.m + self.taps - 1

    @property
    def weight(self) -> list[list[float]]:
        """G, [e, r]: the values of a polynomial with r coefficients at the points, scaled so that the input's transform
        has whole numbers.
        """
        points = {
            4: ((0, 1), (1, 1 / 2), (-1, 1 / 2)),
            6: ((0, 1 / 4), (1, -1 / 6), (-1, -1 / 6), (2, 1 / 24), (-2, 1 / 24)),
        }[self.size]
        return [[scale * point**power for power in range(self.taps)] for point, scale in points] + [
            [0.0] * (self.taps - 1) + [1.0]
        ]

    def input(self, d):
        """B^T d for a list of e values."""
        if self.size == 4:
            return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
        even, odd, even2, odd2 = d[4] - 4 * d[2], d[3] - 4 * d[1], d[4] - d[2], 2 * (d[3] - d[1])
        return [
            4 * d[0] - 5 * d[2] + d[4],
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            4 * d[1] - 5 * d[3] + d[5],
        ]

    def output(self, s):
        """A^T s for a list of e values: row i has the points' i-th powers, infinity counts in the last row alone."""
        plus, minus = s[1] + s[2], s[1] - s[2]
        rows = [(plus, minus)[i % 2] for i in range(self.m)]
        if self.size == 6:
            plus2, minus2 = s[3] + s[4], s[3] - s[4]
            rows = [row + (plus2, minus2)[i % 2] * 2**i if i else row + plus2 for i, row in enumerate(rows)]
        return [s[0] + rows[0], *rows[1:-1], rows[-1] + s[-1]]


FORMS = (Form(2, 3), Form(4, 3), Form(3, 4), Form(2, 5))


def transform_weight(data, g):
    """U `[e, e, G, K, N]` of packed blocks `data [G, K, r, r, N]`; `g [e, r]` is the form's `weight` matrix."""
    groups, kept, _, _, n = data.shape
    e, taps = g.shape
    r, s = te.reduce_axis((0, taps), "r"), te.reduce_axis((0, taps), "s")
    half = te.compute(
        (e, taps, groups, kept, n),
        lambda i, q, b, k, l: te.sum(g[i, r] * data[b, k, r, q, l], axis=r),
        name="half_weight",
    )
    return te.compute(
        (e, e, groups, kept, n),
        lambda i, j, b, k, l: te.sum(g[j, s] * half[i, s, b, k, l], axis=s),
        name="whole_weight",
    )


def compute(x, weight, indices=None, *, form, padding=(1, 1, 1, 1)):
    """The algorithm, free of any order. `weight` is U; `padding` is (top, left, bottom, right)."""
    m, lost = form.m, form.taps - 1
    batch, height, width, channels = x.shape
    e, _, groups, kept, n = (int(extent) for extent in weight.shape)
    top, left, bottom, right = padding
    out_height, out_width = height + top + bottom - lost, width + left + right - lost
    rows, cols = (out_height + m - 1) // m, (out_width + m - 1) // m  # of tiles
    count = batch * rows * cols

    def pixel(i, j, t, c):
        b, h, w = t // (rows * cols), t // cols % rows * m + i, t % cols * m + j
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, x[b, h - top, w - left, c], tirx.const(0, x.dtype))

    k = te.reduce_axis((0, kept), "k")

    def product(i, j, t, o):
        # The clamp says nothing new of an index; it tells the compiler which channels a band needs.
        channel = tirx.min(tirx.max(indices[o // n, k], 0), channels - 1) if indices is not None else k
        return te.sum(weight[i, j, o // n, k, o % n] * transformed[i, j, t, channel], axis=k)

    def half_input(i, j, t, c):
        return pick(i, form.input([pixels[r, j, t, c] for r in range(e)]))

    def whole_input(i, j, t, c):
        return pick(j, form.input([half[i, q, t, c] for q in range(e)]))

    def half_output(i, j, t, o):
        return pick(i, form.output([sums[r, j, t, o] for r in range(e)]))

    def whole_output(b, h, w, o):
        t = b * (rows * cols) + h // m * cols + w // m
        return pick(w % m, form.output([half_out[h % m, q, t, o] for q in range(e)]))

    out_channels = groups * n
    work = Work(1, 1, int(count), int(channels), groups, kept, n, indexed=indices is not None)
    attributes = work.attributes() | {
        "winograd.form": [m, form.taps],
        "winograd.grid": [int(batch), int(rows), int(cols)],
    }
    pixels = te.compute((e, e, count, channels), pixel, name=PIXELS)
    half = te.compute((e, e, count, channels), half_input, name=HALF_INPUT)
    transformed = te.compute((e, e, count, channels), whole_input, name=INPUT)
    sums = te.compute((e, e, count, out_channels), product, name=NAME, attrs=attributes)
    half_out = te.compute((m, e, count, out_channels), half_output, name=HALF_OUTPUT)
    return te.compute((batch, out_height, out_width, out_channels), whole_output, name=OUTPUT)


def pick(index, values):
    """values[index]; once the loop over `index` is unrolled, nothing is left of the choice."""
    chosen = values[-1]
    for i in reversed(range(len(values) - 1)):
        chosen = tirx.Select(index == i, values[i], chosen)
    return chosen


@dataclass(frozen=True)
class WinogradTile:
    """`rows` of tiles a band, and the register tile of the products: `cols` tiles by `groups` groups."""

    rows: int
    cols: int
    groups: int

    def __str__(self):
        return f"{self.rows} tile rows a band, {self.cols} tiles x {self.groups} groups"


def tiles(sch: Schedule, target: Target) -> list[WinogradTile] | None:
    """The knobs worth trying for this function, best guess first; None if it is not this kernel's."""
    block = find_block(sch, NAME)
    if block is None:
        return None
    notes = sch.get(block).annotations
    return knobs(*noted(notes), target)


def noted(notes) -> tuple[Work, Form, tuple[int, int, int]]:
    """(work, form, grid) that `compute` wrote on the block of products."""
    return Work.of_block(notes), Form(*map(int, notes["winograd.form"])), tuple(map(int, notes["winograd.grid"]))


def knobs(work: Work, form: Form, grid: tuple[int, int, int], target: Target, most: int = 24) -> list[WinogradTile]:
    """Bands and register tiles, cheapest estimate first. `work`: the products of all tiles, for one of the e*e
    positions.
    """
    found = []
    for rows in divisors(grid[1], grid[1]):
        for tile in candidates(products_of_band(work, form, rows, grid), target, most=8, among=work.groups):
            found.append(WinogradTile(rows, tile.cols, tile.groups))

    def preference(tile: WinogradTile):
        """Estimates are rounded to 4 %; among equals the tile with the fewest sums leaves most registers for addresses."""
        return round(log(estimate(work, form, grid, tile, target)) / 0.04), tile.cols * tile.groups, tile.rows

    return sorted(dict.fromkeys(found), key=preference)[:most]


def products_of_band(work: Work, form: Form, rows: int, grid: tuple[int, int, int]) -> Work:
    """The products of a band: a position's weights are met again a band later, as if the other positions' were more
    groups.
    """
    groups = form.size**2 * work.groups
    return Work(1, 1, rows * grid[2], work.channels, groups, work.kept, work.n, indexed=work.indexed)


def estimate(
    work: Work, form: Form, grid: tuple[int, int, int], tile: WinogradTile, target: Target, fma_cycles=None
) -> float:
    """Estimated cycles of the whole convolution on the target's cores; `fma_cycles` as in `register_tile.cycles`."""
    e = form.size
    bands, tiles_in_band = grid[0] * grid[1] // tile.rows, tile.rows * grid[2]
    product = cycles(
        products_of_band(work, form, tile.rows, grid),
        Tile(1, tile.cols, tile.groups, 1),
        replace(target, cores=1),
        fma_cycles,
    )
    if bands > 1 and tiles_in_band % tile.cols:
        product *= 2.5  # TVM does not see how few sums a tile cut short has, and keeps them all in memory
    numbers = e * e * tiles_in_band * (work.channels + work.groups * work.n)
    # A transform costs about 5 vector instructions a number that it writes or reads; from beyond L2 it waits for these
    # as well.
    transforms = 5 * numbers / target.lanes / target.fma_per_cycle**0.5
    far = 2 * numbers * FLOAT / L2_BYTES_PER_CYCLE if numbers * FLOAT > target.l2_bytes else 0
    band = product + transforms + far
    return band * (ceil(bands / target.cores) if bands >= target.cores else bands / target.cores)


def schedule(sch: Schedule, tile: WinogradTile, target: Target):
    """Rewrites `compute`, and the elementwise chain fused behind it, into bands that pass through all stages in cache."""
    pixels, half_input, transformed, product, half_output, output = (
        find_block(sch, name) for name in (PIXELS, HALF_INPUT, INPUT, NAME, HALF_OUTPUT, OUTPUT)
    )
    work, form, grid = noted(sch.get(product).annotations)
    shared_bands = grid[0] * grid[1] // tile.rows >= target.cores  # else the threads share each stage of a band

    # 1. Outputs: bands of rows of tiles; a tile's outputs, a vector of channels at a time, are transformed and stored
    # from registers.
    epilogue = merge_epilogue(sch, output)
    image, h, w, o = sch.get_loops(epilogue)
    row, i = sch.split(h, [None, form.m])
    band, row = sch.split(row, [None, tile.rows])
    col, j = sch.split(w, [None, form.m])
    vector, lane = sch.split(o, [None, target.lanes])
    sch.reorder(image, band, row, col, vector, i, j, lane)
    in_registers(sch, [i, j, lane])
    for block in (output, half_output):
        sch.compute_at(block, vector, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        in_registers(sch, sch.get_loops(block)[5:])

    # 2. Products of a band: for each of the e*e positions, the register tile of `direct_conv2d`.
    sch.compute_at(product, band, preserve_unit_loops=True)
    position_i, position_j, t, o, k = sch.get_loops(product)[2:]
    pixel, pixel_inner = sch.split(t, [None, tile.cols])
    group, n = sch.split(o, [None, work.n])
    group, group_inner = sch.split(group, [None, tile.groups])
    sch.reorder(position_i, position_j, group, pixel, k, group_inner, pixel_inner, n)
    sums = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(sums, pixel, preserve_unit_loops=True)
    *store_loops, o = sch.get_loops(sums)[6:]
    group_store, n_store = sch.split(o, [None, work.n])
    in_registers(sch, [*store_loops, group_store, n_store])
    in_registers(sch, [group_inner, pixel_inner, n])
    if tile.rows * grid[2] % tile.cols:
        partition(sch, pixel)

    # 3. Inputs of a band: a tile's pixels, a vector of channels at a time, column by column, then row by row.
    sch.compute_at(transformed, band, preserve_unit_loops=True)
    i, j, t, c = sch.get_loops(transformed)[2:]
    channel, lane = sch.split(c, [None, target.lanes])
    sch.reorder(t, channel, i, j, lane)
    in_registers(sch, [i, j, lane])
    sch.compute_at(half_input, channel, preserve_unit_loops=True)
    sch.set_scope(half_input, 0, "local")
    i, j, *rest = sch.get_loops(half_input)[4:]
    sch.reorder(j, i)
    in_registers(sch, [j, i, *rest])
    sch.compute_at(pixels, j, preserve_unit_loops=True)
    sch.set_scope(pixels, 0, "local")
    in_registers(sch, sch.get_loops(pixels)[5:])

    # 4. Threads share the bands, or the stages of each band.
    if shared_bands:
        sch.parallel(sch.fuse(image, band))
    else:
        sch.parallel(sch.fuse(t, channel))
        sch.parallel(sch.fuse(position_i, position_j, group))
        sch.parallel(sch.fuse(row, col, vector))
    prefetch_weights(sch, k)
    sch.decompose_reduction(product, k)
    finish(sch, target)


def in_registers(sch: Schedule, loops):
    """Vectorises the last loop and unrolls the others."""
    *outer, lane = loops
    for loop in outer:
        sch.unroll(loop)
    sch.vectorize(lane)
