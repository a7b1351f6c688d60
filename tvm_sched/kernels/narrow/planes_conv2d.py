"""Convolution of any kernel and stride over 1xN blocks of few channels: lanes over pixels of planes.

A channel's image becomes S*S planes, one for each phase of the stride, so that neighbours in a plane are what
neighbours among the outputs read; of rows that are `pitch` apart, longer than the outputs' by what a kernel sees beside
them, so that all rows of a band are one row of positions:

    P[i, j, c, y*pitch + x]    = x[y*S + i - top, x*S + j - left, c]                       transposed in registers
    M[g*N + l, p]              = sum_{k, r, q} data[g, k, r, q, l]
                                 * P[rD % S, qD % S, indices[g, k], p + (rD / S)*pitch + qD / S]
    y[h, w, o]                 = M[o, h*pitch + w]                                          transposed back

A vector of a plane serves N multiply-adds, a weight as many as there are vectors. Positions beyond the outputs' columns
are computed and dropped. `x [B, H, W, C]`, `data [G, K, R, Q, N]`, `indices [G, K]` int32, `y [B, H', W', G*N]`. Bands
of output rows pass through all stages in cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from tvm import relax, te, tirx
from tvm.s_tir import Schedule

from subp_contract import pattern
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.base import Form, Kernel, fusable_call, least_cycles
from tvm_sched.kernels.conv_problem import ConvProblem, output_size
from tvm_sched.kernels.fusion import annotate_read, find_block, finish, merge_epilogue
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.narrow.pixel_lanes_conv2d import chunk_of, in_registers, narrow
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import partition, prefetch_weights, split_lanes
from tvm_sched.kernels.rewrites.transpose import COLS, ROWS, transpose
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import LINE

NAME = "planes_conv2d"  # the block of products; the other stages' blocks are named after what they make
PADDED, INPUT, OUTPUT, RESULT = (f"planes_{stage}" for stage in ("padded", "input", "output", "result"))
DILATION, LANES, BAND = (f"planes.{what}" for what in ("dilation", "lanes", "band"))  # attributes of that block
MOST_VECTORS = 16  # of a band that are looked at


@dataclass(frozen=True)
class PlanesProblem:
    """A convolution in vectors of `lanes` pixels, `band` output rows at a time, which divide the image's."""

    conv: ConvProblem
    dilation: tuple[int, int]
    lanes: int
    band: int

    @property
    def beside(self) -> tuple[int, int]:
        """(rows, columns) of a plane that an output sees beside its own position."""
        rows, columns = (
            step * (size - 1) // stride
            for step, size, stride in zip(self.dilation, self.conv.kernel, self.conv.stride, strict=True)
        )
        return rows, columns

    @property
    def phases(self) -> tuple[int, int]:
        """Planes of a channel."""
        rows, columns = (
            min(stride, step * (size - 1) + 1)
            for step, size, stride in zip(self.dilation, self.conv.kernel, self.conv.stride, strict=True)
        )
        return rows, columns

    @property
    def bands(self) -> int:
        """Of an image."""
        return self.conv.height // self.band

    @property
    def pitch(self) -> int:
        """Positions from one row of a plane to the next."""
        height = min(self.lanes, ROWS[-1])
        return ceil((self.conv.width + self.beside[1]) / height) * height

    @property
    def vectors(self) -> int:
        """Of positions, a band."""
        return ceil(((self.band - 1) * self.pitch + self.conv.width) / self.lanes)

    @property
    def lines(self) -> int:
        """Rows of a band's planes."""
        rows, columns = self.beside
        return ceil((self.vectors * self.lanes + rows * self.pitch + columns) / self.pitch)

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.conv.attributes() | {DILATION: list(self.dilation), LANES: self.lanes, BAND: self.band}


def compute(
    x: te.Tensor,
    data: te.Tensor,
    indices: te.Tensor | None = None,
    *,
    band: int,
    lanes: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `padding` is (top, left, bottom, right), `band` output rows pass through the
    stages together; `marks` become attributes of the block of products.
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    block_rows, kept, *kernel, n = (int(extent) for extent in data.shape)
    out_height, out_width = output_size((height, width), (kernel[0], kernel[1]), stride, padding, dilation)
    sizes = (channels, block_rows, kept, n, (kernel[0], kernel[1]), stride)
    conv = ConvProblem(batch, out_height, out_width, *sizes, any(padding), indices is not None)
    problem = PlanesProblem(conv, dilation, lanes, band)
    pitch, lines, bands, phases = problem.pitch, problem.lines, problem.bands, problem.phases
    (top, left, _, _), (down, across) = padding, stride
    k, r, q = (te.reduce_axis((0, extent), name) for extent, name in zip((kept, *kernel), "krq", strict=True))

    def pixel(b, h, j, w, c):
        row, column = h - top, w * across + j - left
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        return tirx.if_then_else(inside, x[b, row, column, c], tirx.const(0, x.dtype))

    def multiplied(b, band_, v, o, lane):
        channel = indices[o // n, k] if indices is not None else k
        row, column = r * dilation[0], q * dilation[1]
        position = v * lanes + lane + row // down * pitch + column // across
        return te.sum(
            data[o // n, k, r, q, o % n] * planes[0, 0, b, band_, row % down, column % across, channel, position],
            axis=[k, r, q],
        )

    rows = ((bands - 1) * band + lines - 1) * down + phases[0]
    padded = te.compute((batch, rows, phases[1], pitch, channels), pixel, name=PADDED)
    # The first axes are for `annotate_buffer_access`, as in `pixel_lanes_conv2d`.
    planes = te.compute(
        (1, 1, batch, bands, *phases, channels, lines * pitch),
        lambda _0, _1, b, t, i, j, c, p: padded[b, (t * band + p // pitch) * down + i, j, p % pitch, c],
        name=INPUT,
    )
    shape = (batch, bands, problem.vectors, block_rows * n, lanes)
    sums = te.compute(shape, multiplied, name=NAME, attrs=problem.attributes() | (marks or {}))
    output = te.compute(
        (batch, bands, problem.vectors * lanes, block_rows * n),
        lambda b, t, p, o: sums[b, t, p // lanes, o, p % lanes],
        name=OUTPUT,
    )
    return te.compute(
        (batch, out_height, out_width, block_rows * n),
        lambda b, h, w, o: output[b, h // band, h % band * pitch + w, o],
        name=RESULT,
    )


@dataclass(frozen=True)
class PlanesTile:
    """In registers: `cols` vectors of positions by `rows` channels of a block."""

    cols: int
    rows: int

    def __str__(self) -> str:
        return f"{self.cols} vectors x {self.rows} channels in registers"


def problem_of(sch: Schedule) -> PlanesProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, NAME)).annotations
    rows, columns = map(int, notes[DILATION])
    return PlanesProblem(ConvProblem.of_block(notes), (rows, columns), int(notes[LANES]), int(notes[BAND]))


def tiles(problem: PlanesProblem, target: Target, most: int = 16) -> list[PlanesTile]:
    """Tiles that fit the registers, cheapest first."""
    found = [
        PlanesTile(cols, rows)
        for rows in divisors(problem.conv.n, problem.conv.n)
        for cols in range(1, min(problem.vectors, target.registers) + 1)
        if rows * cols + cols + 1 <= target.registers
    ]

    def preference(tile: PlanesTile) -> tuple:
        """As that of `pixel_lanes_conv2d.tiles`."""
        return rounded(cycles(problem, tile, target)), abs(tile.rows * tile.cols - 16), -tile.rows

    return sorted(found, key=preference)[:most]


def cycles(problem: PlanesProblem, tile: PlanesTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles of the layer on the target's cores; `fma_cycles` as in `register_tile.cycles`."""
    conv, costs, number = problem.conv, target.costs, target.number_bytes
    taps, ports, bands = prod(conv.kernel), target.loads_per_cycle, conv.batch * problem.bands
    per_register = problem.lanes / target.lanes
    positions = problem.lines * problem.pitch
    planes = prod(problem.phases) * positions * number  # bytes of a channel, a band

    # A tap's vectors begin anywhere in a line: of those that cross one, each is two loads.
    crossing = 1 - number * min(problem.lanes, ROWS[-1]) / LINE / prod(conv.kernel[1:])
    loads = tile.cols * (1 + crossing) / min(ports, costs.vector_loads_per_cycle)
    loads += tile.rows / min(ports, costs.scalar_loads_per_cycle)
    loads += costs.index_loads / ports / taps if conv.indexed else 0
    arithmetic = tile.rows * tile.cols * per_register * (fma_cycles or 1 / target.fma_per_cycle)
    read = register_tile.transfer(planes * tile.cols / problem.vectors, planes * conv.channels, target) / taps
    step = max(register_tile.together(arithmetic, target.fma_latency, read), loads) + costs.lanes_step_cycles
    register_tiles = bands * ceil(problem.vectors / tile.cols) * conv.block_rows * conv.n // tile.rows
    product = register_tiles * (conv.kept * taps * step + costs.loop_cycles)
    weights = conv.block_rows * conv.row_bytes(number)
    far = max(target.network_bytes, weights + planes * conv.channels)
    again = register_tile.transfer(weights, weights + planes * conv.channels, target)
    product = register_tile.together(
        product, register_tile.transfer(weights, far, target) + (bands - 1) * again
    )  # each band reads all weights
    copied = bands * prod(problem.phases) * positions * conv.channels / target.lanes
    stored = bands * problem.vectors * per_register * conv.block_rows * conv.n
    moved = copied * (costs.copy_cycles + costs.transpose_cycles) + stored * costs.transposed_store_cycles
    shares = bands if shares_bands(problem, target) else bands * conv.block_rows * conv.n // chunk_of(conv, target)
    return (product + moved) / shares * ceil(shares / target.cores)


def shares_bands(problem: PlanesProblem, target: Target) -> bool:
    """Whether threads share the bands; else they share each stage's work."""
    return problem.conv.batch * problem.bands >= target.cores


def schedule(sch: Schedule, tile: PlanesTile, target: Target) -> None:
    """Rewrites `compute`, and the elementwise chain fused behind it, into bands that pass through all stages in
    cache.
    """
    padded, planes, product, output, result = (find_block(sch, name) for name in (PADDED, INPUT, NAME, OUTPUT, RESULT))
    problem = problem_of(sch)
    conv, lanes = problem.conv, problem.lanes
    chunk, positions = chunk_of(conv, target), problem.vectors * lanes
    shared = shares_bands(problem, target)

    # 1. Outputs, a chunk of channels at a time: a band's positions transposed back, then those that are outputs stored.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    image, h, w, o = sch.get_loops(epilogue)
    band, h = sch.split(h, [problem.bands, None])
    chunks, o = sch.split(o, [None, chunk])
    sch.reorder(image, band, chunks, h, w, o)
    sch.vectorize(o)
    annotate_read(
        sch,
        epilogue,
        OUTPUT,
        lambda b, h, w, o: ((b, b + 1), (h // problem.band, h // problem.band + 1), (0, positions), (o, o + 1)),
    )
    sch.compute_at(output, chunks, preserve_unit_loops=True)
    height = max(rows for rows in ROWS if chunk % rows == 0)
    *_, p, o = sch.get_loops(output)
    p, p_inner = sch.split(p, [None, COLS])
    o, o_inner = sch.split(o, [None, height])
    sch.reorder(p, o, p_inner, o_inner)

    # 2. Products of a chunk, in register tiles. They may read any channel: what an index says is not known.
    extents = (*problem.phases, conv.channels, problem.lines * problem.pitch)
    annotate_read(
        sch,
        product,
        INPUT,
        lambda b, t, v, o, i, k, r, q: (
            (0, 1),
            (0, 1),
            (b, b + 1),
            (t, t + 1),
            *((0, extent) for extent in extents),
        ),
    )
    sch.compute_at(product, chunks, preserve_unit_loops=True)
    if shared:
        sch.compute_at(planes, band, preserve_unit_loops=True)
    *_, v, o, lane, k, r, q = sch.get_loops(product)
    block_row, row, row_inner = sch.split(o, [None, conv.n // tile.rows, tile.rows])
    v, v_inner = sch.split(v, [None, tile.cols])
    sch.reorder(block_row, row, v, k, r, q, row_inner, v_inner, lane)
    for tap in (r, q):
        sch.unroll(tap)
    in_registers(sch, product, v, [row_inner, v_inner, lane])
    if problem.vectors % tile.cols:
        partition(sch, v)

    # 3. Inputs, a row of the padded image at a time, its columns by phases; then a vector of pixels by a cache line of
    # channels.
    *outer, i, j, c, p = sch.get_loops(planes)
    rows = min(lanes, ROWS[-1])
    columns = next(each for each in (4 * COLS, 2 * COLS, COLS) if conv.channels % each == 0)
    c, c_inner = sch.split(c, [None, columns])
    line, part, lane = sch.split(p, [problem.lines, None, rows])
    sch.reorder(line, i, c, j, part, c_inner, lane)
    sch.compute_at(padded, i, preserve_unit_loops=True)
    split_lanes(sch, sch.get_loops(padded)[-1], target.lanes)
    sch.tensorize(c_inner, transpose(rows, columns, "global"))
    sch.tensorize(p_inner, transpose(height, COLS, "global"))

    # 4. Threads.
    if shared:
        sch.parallel(sch.fuse(image, band))
    else:
        sch.parallel(sch.fuse(*outer, line, i))
        sch.parallel(sch.fuse(image, band, chunks))
    prefetch_weights(sch, k)
    sch.decompose_reduction(product, k)
    finish(sch, target)


class PlanesConv2d(Kernel):
    """Takes convolutions of more than one tap whose zeros are in narrow blocks."""

    name = NAME

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        if layer.depthwise or prod(layer.kernel) == 1 or layer.channels % COLS:
            return
        if layer.zeros is None or not narrow(layer.zeros.n, target):
            return
        for n in pattern.SIZES:
            if not narrow(n, target) or layer.out_channels % max(n, COLS):
                continue
            problem = best_band(PlanesProblem(layer.problem(n), layer.dilation, target.lanes, 1), target)
            yield Form(self, layer, problem, n, "planes", least_cycles(self, problem, target), rank=2)

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        layer = form.layer
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        options = {"band": form.problem.band, "lanes": form.problem.lanes, "marks": marks}
        return fusable_call(builder, NAME, compute, x, *weights, **geometry, **options)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def loop_key(self, problem: PlanesProblem, tile: PlanesTile) -> tuple:
        conv = problem.conv
        return NAME, conv.n, conv.indexed, conv.kernel, conv.stride, problem.dilation, problem.pitch, tile


KERNEL = PlanesConv2d()


@lru_cache(maxsize=1 << 12)
def best_band(problem: PlanesProblem, target: Target) -> PlanesProblem:
    """The problem in the bands of the cheapest estimate."""
    bands = [replace(problem, band=band) for band in divisors(problem.conv.height, problem.conv.height)]
    few = [each for each in bands if each.vectors <= MOST_VECTORS] or bands[:1]
    return min(few, key=lambda each: least_cycles(KERNEL, each, target))
