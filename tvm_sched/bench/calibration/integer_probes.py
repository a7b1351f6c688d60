"""How the figures of the kernels of 8-bit integers are worked out of cycles.

Each is a factor of one term of these kernels' estimates, which are sums. So what the estimate gives with the figure at
0 is taken away from the cycles, and what is left divided by what the estimate gives for each unit of the figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm_sched.bench.calibration import integer_workloads as workloads
from tvm_sched.bench.calibration.trials import Probe, Trial
from tvm_sched.bench.calibration.workloads import Workload
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.kernels.integer.planar import outputs
from tvm_sched.kernels.integer.planar.outputs import OutputsTile
from tvm_sched.kernels.integer.planar.planes import Layout
from tvm_sched.kernels.integer.planar.schedule import STORED, PlanarTile
from tvm_sched.targets import Target

FEW, MANY = 64, 192  # kept channels: loops that LLVM does not unroll, of data that the first cache keeps
N, BLOCK_ROWS, TILES = 16, 4, 2
VECTORS = 4  # of a tile's pixels
SINGLE = 48  # pixels of a tile with lanes over outputs
LANES_OVER_PIXELS = "its dot products take no vectors of outputs"


def inverted(target: Target, figure: str, works: Sequence[Workload], difference: Callable[..., float]) -> Trial:
    """The figure of whose estimates, put together by `difference`, these are the cycles."""

    def estimated(value: float) -> float:
        costs = replace(target.costs, **{figure: value})
        with_it = replace(target, costs=costs)
        return difference(*(work.kernel.cycles(work.problem, work.tile, with_it) for work in works if work.kernel))

    nothing = estimated(0.0)
    unit = estimated(1.0) - nothing
    return Trial(works, lambda *cycles: max(0.0, (difference(*cycles) - nothing) / unit))


def intercept(few: float, many: float) -> float:
    """Cycles at no kept channel."""
    return few - FEW * (many - few) / (MANY - FEW)


def without(more: float, less: float) -> float:
    """What the one takes more."""
    return more - less


def small(target: Target) -> bool:
    """Whether it has the fewest registers."""
    return target.registers < 32


def pixels(target: Target, *, kept: int, tile: PlanarTile, run: int, n: int = N, indexed: bool = False) -> Workload:
    """A 1x1 layer in tiles of `run` pixels with lanes over them."""
    layout = flat(run, dot_of(target).lanes)
    return workloads.planar(target, tile, layout, n=n, kept=kept, block_rows=BLOCK_ROWS, indexed=indexed)


def flat(run: int, lanes: int, single: int = 0) -> Layout:
    """Of a 1x1 layer, TILES tiles in a row."""
    image = (1, TILES * run)
    return Layout(image, image, (1, 1), (1, 1), (0, 0), (1, 1), lanes, 0, run, single)


def storing(target: Target, figure: str, tile: PlanarTile, fewer: int = 0) -> Trial:
    """What stands outside the loop over channels; in tiles of `fewer` pixels less than whole vectors."""
    run = max(VECTORS, tile.vectors) * dot_of(target).lanes - fewer
    return inverted(target, figure, [pixels(target, kept=kept, tile=tile, run=run) for kept in (FEW, MANY)], intercept)


def storing_parts(target: Target) -> Trial:
    """Register tiles of less than a vector of bytes."""
    vectors = 1 if small(target) else min(VECTORS, STORED // dot_of(target).lanes) // 2
    return storing(target, "integer_store_cycles", PlanarTile(4, vectors, pixels_stay=True))


def storing_packed(target: Target) -> Trial | str:
    """Register tiles of a vector of bytes."""
    vectors = STORED // dot_of(target).lanes
    if 4 * vectors + vectors + 2 > target.registers:
        return "no tile of its registers has a vector of bytes"
    return storing(target, "packed_store_cycles", PlanarTile(4, vectors, pixels_stay=True))


def storing_buffered(target: Target) -> Trial:
    """Tiles of a pixel less than whole vectors."""
    return storing(target, "buffered_store_cycles", PlanarTile(4, 2, pixels_stay=True), fewer=1)


def interleaving(target: Target) -> Trial:
    """Channels of each block row's own against all channels; blocks are narrow, so that products are few."""
    tile, run = PlanarTile(4, 2, pixels_stay=True), VECTORS * dot_of(target).lanes
    works = [pixels(target, kept=FEW, tile=tile, run=run, n=4, indexed=indexed) for indexed in (True, False)]
    return inverted(target, "interleave_cycles", works, without)


def turning(target: Target) -> Trial | str:
    """What stands outside the loop over channels, lanes being outputs, and not for storing."""
    dot = dot_of(target)
    if not outputs.takes(N, N, dot):
        return LANES_OVER_PIXELS
    layout, tile = flat(SINGLE, dot.lanes, single=SINGLE), OutputsTile(12, 1, pixels_stay=True)
    works = [
        workloads.planar(target, tile, layout, n=N, kept=kept, block_rows=BLOCK_ROWS, indexed=False)
        for kept in (FEW, MANY)
    ]
    return inverted(target, "turn_cycles", works, intercept)


def looping(target: Target) -> Trial | str:
    """A step of a 3x3 kernel whose taps stay a loop, lanes being outputs."""
    dot, width = dot_of(target), 7 if small(target) else 28
    if not outputs.takes(N, N, dot):
        return LANES_OVER_PIXELS
    layout = Layout((2, width), (2, width), (3, 3), (1, 1), (1, 1), (1, 1), dot.lanes, 2, 0, 2 * width)
    works = [
        workloads.planar(
            target, OutputsTile(width, 1, pixels_stay=True), layout, n=N, kept=kept, block_rows=1, indexed=False
        )
        for kept in (FEW // 4, MANY // 4)
    ]
    return inverted(target, "tap_cycles", works, lambda few, many: many - few)


def picking(target: Target) -> Trial | str:
    """A linear layer of one row with channels of each block row's own, against all channels."""
    works = [
        workloads.linear(target, n=max(N, dot_of(target).lanes), kept=MANY, block_rows=BLOCK_ROWS, indexed=indexed)
        for indexed in (True, False)
    ]
    return inverted(target, "pick_cycles", works, without)


def changing_places(target: Target) -> Trial:
    """Planes of bytes that become float32, channels last."""
    channels, rows = 64, (28, 28)
    work = workloads.channels_last(target, image=rows, channels=channels)
    return Trial([work], lambda cycles: cycles / (rows[0] * rows[1] * channels))


PROBES = (
    Probe("integer_store_cycles", "sums outside the loop over channels, parts of vectors stored", storing_parts),
    Probe("packed_store_cycles", "the same, whole vectors stored", storing_packed),
    Probe("buffered_store_cycles", "the same, in tiles of an odd number of pixels", storing_buffered),
    Probe("interleave_cycles", "what block rows' own channels add to a 1x1 layer of bytes", interleaving),
    Probe("turn_cycles", "what lanes over outputs add outside the loop over channels", turning),
    Probe("tap_cycles", "what a step takes beside its bounds, lanes being outputs", looping),
    Probe("pick_cycles", "what block rows' own channels add to a linear layer of bytes", picking),
    Probe("planes_cycles", "all of making planes of bytes float32, channels last", changing_places),
)
