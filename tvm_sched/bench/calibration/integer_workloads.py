"""What is timed for the figures of 8-bit integers: functions of their kernels, as `workloads.py` has the others."""

from math import ceil

from tvm import te

from tvm_sched.bench.calibration.workloads import Workload, of_kernel, of_schedule, placeholder
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.generic import rules
from tvm_sched.kernels.integer import integer_linear
from tvm_sched.kernels.integer.dots import Dot, dot_of
from tvm_sched.kernels.integer.integer_linear import LinearProblem
from tvm_sched.kernels.integer.planar import planar_conv2d
from tvm_sched.kernels.integer.planar.planes import Layout
from tvm_sched.kernels.integer.planar.problem import PlanarProblem
from tvm_sched.kernels.integer.planar.schedule import Tile
from tvm_sched.kernels.integer.rounding import RANGES, Rounding
from tvm_sched.targets import Target

CHANNELS = 2  # times the kept ones, where block rows have their own


def rounding_of(dot: Dot) -> Rounding:
    """By numbers of each channel, to all of the activations' type."""
    return Rounding((None,), None, RANGES[dot.activation], dot.activation, fits=True, small=dot.activation == "int8")


def planar(
    target: Target, tile: Tile, layout: Layout, *, n: int, kept: int, block_rows: int, indexed: bool
) -> Workload:
    """A convolution of one image in a layout, rounded; `indexed`: each block row has channels of its own."""
    dot, channels = dot_of(target), CHANNELS * kept if indexed else kept
    conv = ConvProblem(
        1, *layout.output, channels, block_rows, kept, n, layout.kernel, padded=any(layout.padding), indexed=indexed
    )
    problem = PlanarProblem(conv, layout, dot, ceil(kept / dot.group))
    inputs = [placeholder((1, channels, *layout.image), dot.activation)]
    inputs += [placeholder((block_rows, problem.groups, *layout.kernel, n, dot.group), problem.weights)]
    inputs += [placeholder((block_rows, problem.groups * dot.group), "int32")] if indexed else []
    inputs += [placeholder((block_rows * n,)) for _ in range(2)]
    y = planar_conv2d.conv2d(*inputs, problem=problem, out_channels=block_rows * n, rounding=rounding_of(dot))
    return of_kernel(planar_conv2d.KERNEL, inputs, y, tile, target)


def linear(target: Target, *, n: int, kept: int, block_rows: int, indexed: bool) -> Workload:
    """A linear layer of one row, rounded, with its best tile by estimate."""
    dot, channels = dot_of(target), CHANNELS * kept if indexed else kept
    problem = LinearProblem(ConvProblem(1, 1, 1, channels, block_rows, kept, n, indexed=indexed), dot)
    inputs = [placeholder((1, channels), dot.activation)]
    inputs += [placeholder((block_rows, problem.groups, n, dot.group), "int8")]
    inputs += [placeholder((block_rows, problem.groups * dot.group), "int32")] if indexed else []
    inputs += [placeholder((block_rows * n,)) for _ in range(2)]
    y = integer_linear.linear(*inputs, problem=problem, out_channels=block_rows * n, rounding=rounding_of(dot))
    tile = integer_linear.tiles(problem, target)[0]
    return of_kernel(integer_linear.KERNEL, inputs, y, tile, target)


def channels_last(target: Target, *, image: tuple[int, int], channels: int) -> Workload:
    """Planes of bytes as float32 numbers, channels last."""
    x = placeholder((1, channels, *image), dot_of(target).activation)
    y = te.compute((1, *image, channels), lambda b, h, w, c: x[b, c, h, w].astype("float32"))
    return of_schedule(rules.schedule, [x], y, target)
