"""Winograd with lanes over N and over tiles, against PyTorch's convolution on the same blocks."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from te_run import function, replays, run, tiles
from test_winograd_conv2d import transformed
from tvm import te, topi
from tvm.s_tir import Schedule

from tvm_sched import codegen, targets
from tvm_sched.kernels import kernel_of, winograd_conv2d
from tvm_sched.kernels.base import least_cycles
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.narrow import winograd_lanes_conv2d
from tvm_sched.kernels.narrow.winograd_lanes_conv2d import LanesProblem
from tvm_sched.kernels.rewrites import interleave
from tvm_sched.kernels.winograd_variants import VARIANTS, Variant
from tvm_sched.targets.costs import ZEN4, ZEN5
from tvm_sched.targets.sizes import FLOAT

ONE_CORE = replace(targets.host(), cores=1)
LANES = ONE_CORE.lanes
F4X3 = Variant(4, 3)


class Layer:
    """A layer with bias, residual and ReLU over blocks kept at random: the function, its inputs, PyTorch's result."""

    def __init__(self, shape, out_channels, n=8, together=2, kept=5, variant=F4X3, padding=(1, 1, 1, 1)):
        generator, taps = np.random.default_rng(3), variant.taps
        batch, height, width, channels = shape
        groups = out_channels // n
        blocks = np.stack([np.sort(generator.permutation(channels)[:kept]) for _ in range(groups)])
        data = generator.standard_normal((groups, kept, taps, taps, n), "float32") / np.float32(taps * kept**0.5)
        top, left, bottom, right = padding
        self.shape = (batch, height + top + bottom - taps + 1, width + left + right - taps + 1, out_channels)
        x, bias, residual = (
            generator.standard_normal(each, "float32") for each in (shape, (out_channels,), self.shape)
        )
        self.arrays = [x, transformed(data, variant), blocks.astype("int32"), bias, residual]
        inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        y = winograd_lanes_conv2d.compute(*inputs[:3], variant=variant, together=together, padding=padding)
        self.mod = function(inputs, topi.nn.relu(topi.add(topi.add(y, inputs[3]), inputs[4])))

        weight = torch.zeros(out_channels, channels, taps, taps)
        for group, kept_blocks in enumerate(blocks):
            weight[group * n : (group + 1) * n, kept_blocks] = torch.from_numpy(data[group]).permute(3, 0, 1, 2)
        padded = torch.nn.functional.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (left, right, top, bottom))
        y = torch.nn.functional.conv2d(padded, weight).permute(0, 2, 3, 1)
        self.expected = torch.relu(y + torch.from_numpy(bias) + torch.from_numpy(residual)).numpy()

    def check(self, tile=None, target=ONE_CORE):
        sch = Schedule(self.mod)
        kernel = winograd_lanes_conv2d.KERNEL
        kernel.schedule(sch, tile or tiles(kernel, sch.mod, target)[0], target)
        np.testing.assert_allclose(run(sch, target, self.arrays, self.shape), self.expected, rtol=0, atol=1e-4)
        return sch


@pytest.mark.parametrize("n, together", [(LANES // 2, 2), (LANES // 4, 4), (LANES // 4, 2), (LANES, 2)])
@pytest.mark.parametrize("size", [(4, 5), (9, 14)])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_images_that_groups_of_tiles_do_not_divide(variant, size, n, together):
    Layer((2, *size, LANES), 2 * LANES, n, together, variant=variant).check()


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 0, 3)])
def test_paddings(padding):
    Layer((1, 9, 8, 2 * LANES), LANES, padding=padding).check()


@pytest.mark.parametrize("kept", [1, 16])
def test_densities(kept):
    Layer((1, 8, 8, 2 * LANES), LANES, kept=kept).check()


@pytest.mark.parametrize("first, cores", list(enumerate([1, 2, 64])))
def test_every_tile_and_number_of_threads_gives_the_same_numbers(first, cores):
    layer, target = Layer((1, 12, 10, LANES), 2 * LANES), replace(ONE_CORE, cores=cores)
    for tile in tiles(winograd_lanes_conv2d.KERNEL, layer.mod, target)[first::3]:
        layer.check(tile, target)


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="runs AVX2 code")
@pytest.mark.parametrize("n, together", [(8, 2), (4, 4), (4, 2)])
def test_avx2(n, together):
    Layer((1, 10, 10, 32), 32, n, together).check(target=replace(targets.X86_AVX2, cores=1))


def test_the_schedule_replays_from_a_record():
    layer = Layer((1, 9, 9, LANES), 2 * LANES)
    assert replays(layer.check(), layer.mod)


def test_the_intrinsics_of_a_record_are_made():
    """In a process that has not scheduled anything yet."""
    interleave.make_needed([[["Tensorize", [], ["multiply_add_3x5", 1], []]], []])
    assert interleave.TensorIntrin.get("multiply_add_3x5", allow_missing=True) is not None


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="looks for instructions of x86")
@pytest.mark.parametrize("n, together, instruction", [(8, 2, "vbroadcastsd"), (4, 4, "vbroadcastf(128|32x4)")])
def test_pixels_are_spread_by_loads(n, together, instruction):
    sch = Layer((1, 8, 8, 16), 16, n, together).check(target=replace(targets.X86_AVX2, cores=1))
    assembly = codegen.assembly(codegen.build(sch.mod, targets.X86_AVX2))
    assert re.search(rf"{instruction}\s+\S*\(%", assembly)


def test_weights_count_once_in_estimates_of_memory():
    conv = ConvProblem(1, 28, 28, 128, 16, 32, 8)
    wide = LanesProblem.of(conv, F4X3, 2).wide.products
    assert (wide.n, wide.row_weights * FLOAT) == (16, 32 * 8 * FLOAT)


@pytest.mark.parametrize(
    "name, n, together, taken",
    [
        ("x86-avx512", 8, 2, True),
        ("x86-avx512", 4, 4, True),
        ("x86-avx512", 16, 2, False),
        ("x86-avx512", 4, 2, True),  # half a vector
        ("x86-avx512", 2, 2, False),
        ("x86-avx2", 8, 2, True),
        ("x86-avx2", 4, 4, True),
        ("x86-avx2", 4, 2, True),
        ("x86-avx2", 8, 4, False),
        ("x86-avx2", 2, 2, False),
        ("cortex-a76", 2, 2, False),
    ],
)
def test_which_blocks_it_takes(name, n, together, taken):
    conv = ConvProblem(1, 28, 28, 128, 128 // n, 32, n)
    assert winograd_lanes_conv2d.takes(conv, 128, together, targets.get(name)) is taken


@pytest.mark.parametrize("costs", [ZEN4, ZEN5])  # half a vector there is as fast as a whole one, here half as fast
@pytest.mark.parametrize("size, channels", [(56, 64), (28, 128), (14, 256)])
def test_narrow_blocks_are_estimated_faster_over_tiles_where_they_are(size, channels, costs):
    target = replace(targets.get("x86-avx512"), cores=1, costs=costs)
    conv = ConvProblem(1, size, size, channels, channels // 8, channels // 4, 8)
    over_tiles = least_cycles(winograd_lanes_conv2d.KERNEL, LanesProblem.of(conv, F4X3, 2), target)
    plain = winograd_conv2d.WinogradProblem.of(conv, F4X3)
    assert (over_tiles < least_cycles(winograd_conv2d.KERNEL, plain, target)) == (costs is ZEN5)


def test_images_of_one_row_are_not_its_own():
    conv = ConvProblem(1, 1, 28, 128, 16, 32, 8)
    assert not winograd_lanes_conv2d.takes(conv, 128, 2, targets.get("x86-avx512"))


def test_a_function_of_another_kernel_is_left_alone():
    x = te.placeholder((1, 4, 4, 16), "float32")
    assert kernel_of(function([x], topi.nn.relu(x))["main"]) is None
