"""What is timed: scheduled functions on the smallest problems that do one thing, of the kernels that networks run on.

All but one are for one core. Nothing is compiled here, so that a test can look at a problem without running it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from tvm import IRModule, te, topi
from tvm.s_tir import Schedule

from tvm_sched.bench import peak
from tvm_sched.kernels import direct_conv2d, space_to_depth, winograd_conv2d
from tvm_sched.kernels.base import Kernel, Problem, normal
from tvm_sched.kernels.generic import rules
from tvm_sched.kernels.narrow import pixel_lanes_conv2d, winograd_lanes_conv2d
from tvm_sched.kernels.narrow.pixel_lanes_conv2d import PixelTile
from tvm_sched.kernels.register_tile import Tile
from tvm_sched.kernels.winograd_conv2d import WinogradTile
from tvm_sched.kernels.winograd_variants import Variant
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import FLOAT, FLOAT32, LINE

LAUNCHES = 20  # of `launching`
EXCHANGES = 20  # of `exchanging`
EXCHANGED = (512, 256)  # pixels by channels of its image: half of a second cache


@dataclass(frozen=True, eq=False)
class Workload:
    """A scheduled function and what it is called with; where it holds a kernel also what that one's estimate takes."""

    mod: IRModule
    arguments: Sequence[np.ndarray | int]
    kernel: Kernel | None = None
    problem: Problem = None
    tile: object = None
    threads: int = 1  # that it runs on


def multiply_adds(target: Target) -> Workload:
    """The loop of `bench.peak`: what tells a cycle, `peak_cycles` a call."""
    start = np.zeros((1, peak.VECTORS, target.lanes), "float32")
    factors = np.full(target.lanes, 0.5, "float32")
    mod = IRModule({"main": peak.kernel(target.lanes, threads=1)})
    return Workload(mod, (peak.ITERATIONS, factors, factors, start, start))


def peak_cycles(target: Target) -> float:
    """Of a call of `multiply_adds`. So a cycle is the time in which the target starts `fma_per_cycle` multiply-adds, as
    the estimates take it to be, also where the target's figure for that is wrong.
    """
    return peak.ITERATIONS * peak.VECTORS / target.fma_per_cycle


def direct(
    target: Target,
    tile: Tile,
    *,
    n: int,
    kept: int,
    block_rows: int,
    image: tuple[int, int] = (1, 1),
    channels: int | None = None,
    size: int = 1,
    weights: str = FLOAT32,
) -> Workload:
    """Direct convolution to `image` pixels (height, width) without padding, bias and ReLU behind it; with all channels
    kept where `channels` says nothing. `weights`: their dtype.
    """
    shape = (1, image[0] + size - 1, image[1] + size - 1, channels or kept)
    inputs = [placeholder(shape), placeholder((block_rows, kept, size, size, n), weights)]
    inputs += [placeholder((block_rows, kept), "int32")] if channels else []
    bias = placeholder((block_rows * n,))
    sums = direct_conv2d.conv2d(*inputs, out_channels=block_rows * n)
    return of_kernel(direct_conv2d.KERNEL, [*inputs, bias], topi.nn.relu(topi.add(sums, bias)), tile, target)


def pixel_lanes(
    target: Target, tile: PixelTile, *, pixels: int, channels: int, kept: int, out_channels: int, n: int = 4
) -> Workload:
    """A 1x1 convolution with lanes over pixels."""
    block_rows = out_channels // n
    inputs = [placeholder((pixels, channels)), placeholder((block_rows, kept, 1, 1, n))]
    inputs += [placeholder((block_rows, kept), "int32")]
    y = pixel_lanes_conv2d.compute(*inputs, shape=(1, 1, pixels, out_channels), lanes=target.lanes)
    return of_kernel(pixel_lanes_conv2d.KERNEL, inputs, y, tile, target)


def winograd(
    target: Target, tile: WinogradTile, variant: Variant, *, grid: tuple[int, int], channels: int, kept: int
) -> Workload:
    """Winograd convolution to a grid (rows, columns) of tiles, in blocks of a vector, as many channels out as in."""
    height, width = (variant.m * count for count in grid)
    e, block_rows = variant.size, channels // target.lanes
    inputs = [placeholder((1, height, width, channels)), placeholder((e, e, block_rows, kept, target.lanes))]
    inputs += [placeholder((block_rows, kept), "int32")]
    y = winograd_conv2d.compute(*inputs, variant=variant, padding=(variant.taps // 2,) * 4)
    return of_kernel(winograd_conv2d.KERNEL, inputs, y, tile, target)


def winograd_lanes(target: Target, tile: WinogradTile, variant: Variant, *, together: int, kept: int) -> Workload:
    """Winograd convolution of 64 channels to a row of groups of tiles, in blocks that fill a vector `together`
    times.
    """
    n, channels = target.lanes // together, 64
    e, width = variant.size, variant.m * together * tile.cols
    inputs = [placeholder((1, variant.m, width, channels)), placeholder((e, e, channels // n, kept, n))]
    inputs += [placeholder((channels // n, kept), "int32")]
    padding = (variant.taps // 2,) * 4
    y = winograd_lanes_conv2d.compute(*inputs, variant=variant, together=together, padding=padding)
    return of_kernel(winograd_lanes_conv2d.KERNEL, inputs, y, tile, target)


def of_kernel(kernel: Kernel, inputs: Sequence[te.Tensor], output: te.Tensor, tile, target: Target) -> Workload:
    """A kernel's function with that tile."""
    sch = scheduled(inputs, output)
    problem = kernel.problem(sch)
    kernel.schedule(sch, tile, target)
    arguments = kernel.arguments(problem, [described(each) for each in (*inputs, output)], np.random.default_rng(0))
    return Workload(sch.mod, arguments, kernel, problem, tile)


def rearranging(target: Target, *, image: tuple[int, int], channels: int, channels_first: bool = False) -> Workload:
    """Space-to-depth of stride 2 to an image (rows, columns) of whole vectors of channels."""
    rows, cols = (2 * extent for extent in image)
    x = placeholder((1, channels, rows, cols) if channels_first else (1, rows, cols, channels))
    deep = ceil(4 * channels / target.lanes) * target.lanes
    last = topi.transpose(x, (0, 2, 3, 1)) if channels_first else x
    y = space_to_depth.compute(last, stride=2, padding=(1, 1), shape=(*image, deep))
    return of_schedule(space_to_depth.schedule, [x], y, target)


def strided_copy(target: Target, *, image: tuple[int, int], channels: int) -> Workload:
    """Every second pixel of every second row, to an image (rows, columns)."""
    x = placeholder((1, *(2 * extent for extent in image), channels))
    y = topi.strided_slice(x, [0, 0, 0, 0], list(map(int, x.shape)), [1, 2, 2, 1])
    return of_schedule(rules.schedule, [x], y, target)


def addition(target: Target, numbers: int) -> Workload:
    """Of two arrays of so many numbers, whole vectors."""
    shape = (numbers // target.lanes, target.lanes)
    a, b = placeholder(shape), placeholder(shape)
    return of_schedule(rules.schedule, [a, b], topi.add(a, b), target)


def launching(threads: int) -> Workload:
    """LAUNCHES loops, one after the other, in which each of so many threads adds to a vector of its own."""
    from tvm.script import tirx as T

    shape = (threads, LINE // FLOAT)

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer(shape, "float32"), y: T.Buffer(shape, "float32")):
        for _ in T.serial(LAUNCHES):
            for i in T.parallel(shape[0]):
                for j in T.vectorized(shape[1]):
                    y[i, j] = x[i, j] + y[i, j]

    return Workload(IRModule({"main": main}), [np.zeros(shape, "float32") for _ in range(2)], threads=threads)


def exchanging(target: Target, *, by_channels: bool) -> Workload:
    """EXCHANGES times, two threads add to an image in place, each to half of its pixels; before that each to half of
    them, too, or to half of the channels of all.
    """
    from tvm.script import tirx as T

    (pixels, channels), lanes = EXCHANGED, target.lanes
    rows, columns = (pixels, channels // 2) if by_channels else (pixels // 2, channels)
    down, right = (0, columns) if by_channels else (rows, 0)  # from one thread's part to the other's

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((lanes,), "float32"), y: T.Buffer(EXCHANGED, "float32")):
        for _ in T.serial(EXCHANGES):
            for i in T.parallel(2):
                for p, c in T.grid(rows, columns // lanes):
                    for lane in T.vectorized(lanes):
                        y[i * down + p, i * right + c * lanes + lane] = (
                            y[i * down + p, i * right + c * lanes + lane] + x[lane]
                        )
            for i in T.parallel(2):
                for p, c in T.grid(pixels // 2, channels // lanes):
                    for lane in T.vectorized(lanes):
                        y[i * (pixels // 2) + p, c * lanes + lane] = (
                            y[i * (pixels // 2) + p, c * lanes + lane] + x[lane]
                        )

    return Workload(IRModule({"main": main}), [np.zeros(lanes, "float32"), np.zeros(EXCHANGED, "float32")], threads=2)


def of_schedule(schedule, inputs: Sequence[te.Tensor], output: te.Tensor, target: Target) -> Workload:
    """A function that has one schedule."""
    sch = scheduled(inputs, output)
    schedule(sch, target)
    rng = np.random.default_rng(0)
    return Workload(sch.mod, [normal(rng, *described(each)) for each in (*inputs, output)])


def scheduled(inputs: Sequence[te.Tensor], output: te.Tensor) -> Schedule:
    """The schedule of a function to which nothing was done yet."""
    return Schedule(IRModule({"main": te.create_prim_func([*inputs, output])}))


def placeholder(shape: tuple[int, ...], dtype: str = "float32") -> te.Tensor:
    """An argument."""
    return te.placeholder(shape, dtype)


def described(tensor: te.Tensor) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of a tensor."""
    return str(tensor.dtype), tuple(int(extent) for extent in tensor.shape)
