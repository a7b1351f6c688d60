"""The planar convolution with lanes over the N outputs of a block: what its register tiles are, cost and become.

    S[b, g, t, p, l]    = sum_{k, r, q, j} data[g, k, r, q, l, j] * X[b, g, t, k, (position(p) + offset(r, q))*J + j]
    T[b, t, g*N + l, p] = round(S[b, g, t, p, l])                     g and t are one axis of S

The weights of a vector of outputs lie side by side, 8-bit ones as they are stored: those that are multiplied as int16
are widened once for all pixels of a register tile. J channels of one pixel go to all lanes. So pixels are taken
one by one, and none between two rows of the interleaved image: a 7x7 image takes 49 or 50 steps where vectors of pixels
take 64. In exchange what they give is turned over, 16 by 16: bytes, or, where a residual is added, the sums before they
are rounded, which costs a few cycles a vector of them and needs long sums.
"""

from dataclasses import dataclass
from math import prod

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels import register_tile
from tvm_sched.kernels.integer.dots import Dot, Summing, arithmetic_cycles
from tvm_sched.kernels.integer.planar.problem import PlanarProblem
from tvm_sched.kernels.ranking import divisors
from tvm_sched.kernels.rewrites.loops import unrolled_vector
from tvm_sched.kernels.rewrites.transpose import COLS, transpose
from tvm_sched.targets import Target

TURNED_COLS = 4 * COLS  # outputs that are turned over together
MOST_ADDED = 18  # sums of a register tile whose products do not add themselves: of 25 each took 1.1 times as long
MOST_UNROLLED = 4  # register tiles of an image that are code of their own, as they begin within a row


@dataclass(frozen=True)
class OutputsTile:
    """In registers: `pixels` of a tile by `vectors` of a block's outputs. Around them as in a `PlanarTile`."""

    pixels: int
    vectors: int
    pixels_stay: bool

    def __str__(self) -> str:
        order = "tiles of pixels" if self.pixels_stay else "block rows"
        return f"{self.pixels} pixels x {self.vectors} vectors of channels in registers, {order} outermost"


def takes(n: int, out_channels: int, dot: Dot) -> bool:
    """Whether a block's outputs are whole vectors, whose weights the dot product takes as one."""
    whole = n <= out_channels and n % dot.lanes == 0 and n % TURNED_COLS == 0
    return whole and dot.group > 1 and dot.outputs == 1


def tiles(problem: PlanarProblem, target: Target) -> list[OutputsTile]:
    """Those that fit the registers."""
    layout, vectors = problem.layout, problem.conv.n // problem.dot.lanes
    most = target.registers if problem.dot.adds else MOST_ADDED
    return [
        OutputsTile(pixels, each, stay)
        for pixels in divisors(layout.single, target.registers)
        for each in divisors(vectors, vectors)
        for stay in ((True, False) if problem.conv.indexed else (True,))
        if pixels * each <= most
        and pixels * each + each + 1 + problem.dot.constants <= target.registers
        and (in_rows(problem, pixels) or layout.single // pixels <= MOST_UNROLLED)
    ]


def in_rows(problem: PlanarProblem, pixels: int) -> bool:
    """Whether all register tiles of so many pixels lie alike in the image's rows."""
    width = problem.layout.output[1]
    return problem.layout.flat or pixels % width == 0 or width % pixels == 0


def taps_are_steps(problem: PlanarProblem, tile: OutputsTile, target: Target) -> bool:
    """Whether a kernel's columns stay a loop. Neighbouring columns take the same pixels but one, which LLVM would load
    for all of them together: into memory, where there are not registers enough.
    """
    columns = problem.conv.kernel[1]
    pixels = tile.pixels + columns - 1
    return columns > 1 and (tile.pixels + 1) * tile.vectors + pixels > target.registers


def product_cycles(problem: PlanarProblem, tile: OutputsTile, target: Target, fma_cycles: float | None) -> float:
    """Of an image's register tiles, their sums turned over included."""
    conv, dot, layout, costs = problem.conv, problem.dot, problem.layout, target.costs
    sums, steps = tile.pixels * tile.vectors, problem.groups * prod(conv.kernel)
    widened = tile.vectors / 2 if dot.w != dot.stored else 0.0  # an instruction, where a product that is added is two
    arithmetic = arithmetic_cycles(dot, sums + widened, target, fma_cycles)
    # Taps find a pixel's line in the first cache; behind the additions that shows.
    near = not dot.adds and prod(conv.kernel) > 1
    scalar_loads_per_cycle = target.loads_per_cycle if near else costs.scalar_loads_per_cycle
    loads = tile.vectors / costs.vector_loads_per_cycle + tile.pixels / scalar_loads_per_cycle
    step = max(register_tile.together(arithmetic, dot.latency or target.fma_latency), loads)
    step += costs.tap_cycles if taps_are_steps(problem, tile, target) else 0.0
    weights = tile.vectors * dot.lanes * dot.group * dot.number_bytes  # bytes of a step
    if steps * weights > costs.cache_share * target.l1_bytes:  # each register tile gets them from the second cache
        step = register_tile.together(step, weights / costs.l2_bytes_per_cycle)
    vectors = conv.block_rows * conv.n // dot.lanes
    register_tiles = layout.tiles * layout.single // tile.pixels * vectors // tile.vectors
    turned = layout.tiles * layout.run * vectors * costs.turn_cycles
    return register_tiles * (steps * step + costs.tile_cycles) + turned


def output_lanes(
    sch: Schedule,
    problem: PlanarProblem,
    product: SBlockRV,
    rounded: SBlockRV | None,
    turned: SBlockRV,
    at: LoopRV,
    tile: OutputsTile,
) -> Summing:
    """Computes a tile's sums at the loop `at`, where they are turned over, by then `rounded` if that is given."""
    conv, layout, dot = problem.conv, problem.layout, problem.dot
    singly = product if rounded is None else rounded
    o, i = sch.get_loops(turned)[-2:]
    o, column = sch.split(o, [None, TURNED_COLS])
    i, row = sch.split(i, [None, dot.lanes])
    sch.reorder(o, i, column, row)

    def read(whole: bool) -> None:
        def region(b, t, o, i):
            place = (b, o // conv.n * layout.tiles + t, i, o % conv.n)
            points = [(point, point + 1) for point in place]
            return (*points[:2], (0, layout.single), (0, conv.n)) if whole else (*points,)

        sch.annotate_buffer_access(turned, 0, "read", region)

    read(whole=True)  # nobody asks for pixels behind these,
    sch.compute_at(singly, at, preserve_unit_loops=True)
    read(whole=False)  # but they are turned over with the others
    stored = sch.cache_write(product, 0, "local") if rounded is None else rounded
    pixel, lane = sch.get_loops(stored)[-2:]
    pixel, each = sch.split(pixel, [None, tile.pixels])
    vector, few, lane = sch.split(lane, [None, tile.vectors, dot.lanes])
    # What a register tile reads of the image stays in the first cache for all its vectors; the weights of tiles that
    # are code of their own do for all of these.
    outer = [pixel, vector] if in_rows(problem, tile.pixels) else [vector, pixel]
    sch.reorder(*outer, each, few, lane)
    unrolled_vector(sch, [each, few, lane])
    sch.compute_at(product, outer[-1], preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    each, lane, k, r, q, j = sch.get_loops(product)[-6:]
    few, lane = sch.split(lane, [None, dot.lanes])
    sch.reorder(k, r, q, each, few, lane, j)
    if not in_rows(problem, tile.pixels):
        sch.unroll(pixel)
    dtype = str(sch.get(turned).writes[0].source.dtype)
    sch.tensorize(column, transpose(dot.lanes, TURNED_COLS, "global", dtype))
    return Summing(k, r, q, [each, few], lane)
