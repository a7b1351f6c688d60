"""Depthwise convolution against PyTorch: shapes, paddings, fused chains, every tile, other CPUs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from te_run import function, replays, run, scheduled, tiles
from tvm import te, topi
from tvm.s_tir import Schedule

from tvm_sched import codegen, targets
from tvm_sched.kernels import depthwise_conv2d, kernel_of

ONE_CORE = replace(targets.host(), cores=1)


def silu(x):
    return topi.multiply(x, topi.sigmoid(x))


def hardswish(x):
    return topi.multiply(x, topi.divide(topi.clip(topi.add(x, 3.0), 0.0, 6.0), 6.0))


class Layer:
    """A depthwise layer with bias, optional residual and activation: the function, its inputs and PyTorch's result."""

    def __init__(self, shape, kernel, residual=False, activation=None, **geometry):
        generator = np.random.default_rng(0)
        channels = shape[3]
        x, weight, bias = (te.placeholder(s, "float32") for s in (shape, (*kernel, channels), (channels,)))
        y = topi.add(depthwise_conv2d.compute(x, weight, **geometry), bias)
        self.shape = tuple(int(extent) for extent in y.shape)
        inputs = [x, weight, bias]
        if residual:
            inputs.append(te.placeholder(self.shape, "float32"))
            y = topi.add(y, inputs[-1])
        self.mod = function(inputs, activation[0](y) if activation else y)
        self.arrays = [generator.standard_normal([int(n) for n in each.shape], "float32") for each in inputs]
        tensors = [torch.from_numpy(array) for array in self.arrays]
        top, left, bottom, right = geometry.get("padding", (0, 0, 0, 0))
        expected = torch.nn.functional.conv2d(
            torch.nn.functional.pad(tensors[0].permute(0, 3, 1, 2), (left, right, top, bottom)),
            tensors[1].permute(2, 0, 1)[:, None],
            tensors[2],
            groups=shape[3],
            stride=geometry.get("stride", 1),
            dilation=geometry.get("dilation", 1),
        ).permute(0, 2, 3, 1)
        expected = expected + tensors[3] if residual else expected
        self.expected = (activation[1](expected) if activation else expected).numpy()

    def check(self, tile=None, target=ONE_CORE):
        sch = Schedule(self.mod)
        depthwise_conv2d.schedule(sch, tile or tiles(depthwise_conv2d.KERNEL, sch.mod, target)[0], target)
        np.testing.assert_allclose(run(sch, target, self.arrays, self.shape), self.expected, rtol=1e-5, atol=1e-5)


SAME = {"stride": (1, 1), "padding": (1, 1, 1, 1)}


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 24, 40, 58, 61, 64])
def test_any_number_of_channels(channels):
    Layer((1, 9, 10, channels), (3, 3), **SAME).check()


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (7, 7), (8, 5), (14, 14)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_images_kernels_and_strides(size, stride, kernel):
    Layer((1, *size, 16), (kernel, kernel), stride=(stride, stride), padding=(kernel // 2,) * 4).check()


@pytest.mark.parametrize(
    "kernel, geometry",
    [
        ((3, 3), {}),
        ((3, 3), {"padding": (0, 1, 2, 0)}),
        ((1, 5), {"padding": (0, 2, 0, 2), "stride": (1, 2)}),
        ((2, 3), {"padding": (2, 2, 2, 2), "dilation": (2, 1)}),
        ((3, 3), {"padding": (3, 3, 3, 3), "dilation": (3, 3), "stride": (2, 1)}),
        ((7, 7), {"padding": (3, 3, 3, 3)}),
        ((1, 1), {"stride": (3, 3)}),
    ],
)
def test_uneven_padding_dilation_and_kernels(kernel, geometry):
    Layer((1, 11, 12, 16), kernel, **geometry).check()


def test_several_images():
    Layer((3, 7, 7, 24), (3, 3), **SAME).check()


@pytest.mark.parametrize(
    "activation",
    [(topi.nn.relu, torch.relu), (silu, torch.nn.functional.silu), (hardswish, torch.nn.functional.hardswish)],
)
@pytest.mark.parametrize("residual", [False, True])
def test_what_follows_is_fused(activation, residual):
    layer = Layer((1, 7, 9, 16), (3, 3), residual=residual, activation=activation, **SAME)
    layer.check()
    sch = scheduled(depthwise_conv2d.KERNEL, layer.mod, ONE_CORE)
    assert "global" not in {buffer.scope() for buffer in sch.get(sch.get_sblock("root")).alloc_buffers}


@pytest.mark.parametrize("first, cores", list(enumerate([1, 4])))
def test_every_tile_gives_the_same_numbers(first, cores):
    layer, target = Layer((1, 6, 7, 16), (3, 3), **SAME), replace(ONE_CORE, cores=cores)
    for tile in tiles(depthwise_conv2d.KERNEL, layer.mod, target)[first::2]:
        layer.check(tile, target)


@pytest.mark.parametrize("cores", [1, 16])
@pytest.mark.parametrize("size, stride, kernel", [((7, 7), 1, 3), ((9, 6), 2, 3), ((6, 5), 1, 5)])
def test_pixels_that_meet_in_a_set_of_the_first_cache_are_copied(size, stride, kernel, cores):
    layer = Layer((1, *size, 1024), (kernel, kernel), stride=(stride,) * 2, padding=(kernel // 2,) * 4)
    target = replace(ONE_CORE, cores=cores)
    found = tiles(depthwise_conv2d.KERNEL, layer.mod, target)
    copied = [tile for tile in found if tile.copied]
    assert copied and {tile.copied for tile in found} == {0, depthwise_conv2d.COPIED}
    for tile in copied[:3]:
        layer.check(tile, target)


def test_pixels_that_lie_in_many_sets_are_not_copied():
    layer = Layer((1, 7, 7, 1040), (3, 3), **SAME)
    assert not any(tile.copied for tile in tiles(depthwise_conv2d.KERNEL, layer.mod, ONE_CORE))


def test_the_default_tile_shares_inputs_between_outputs():
    tile = tiles(depthwise_conv2d.KERNEL, Layer((1, 56, 56, 64), (3, 3), **SAME).mod, ONE_CORE)[0]
    assert tile.rows * tile.cols == depthwise_conv2d.MOST_SUMS
    assert tile.rows > 1


def test_threads_get_bands_of_the_image():
    layer, target = Layer((1, 56, 56, 64), (3, 3), **SAME), replace(ONE_CORE, cores=4)
    tile = tiles(depthwise_conv2d.KERNEL, layer.mod, target)[0]
    assert tile.bands > 1 and tile.bands * tile.parts % 4 == 0


@pytest.mark.parametrize("size", [7, 14])  # not 4 rows and 3, or 8 and 6, or half of the channels of all
def test_threads_get_equal_runs_of_pixels(size):
    layer, target = Layer((1, size, size, 96), (3, 3), **SAME), replace(ONE_CORE, cores=2)
    tile = tiles(depthwise_conv2d.KERNEL, layer.mod, target)[0]
    assert size % tile.bands == 0 and tile.bands > 1 and tile.bands * tile.parts % 2 == 0


def test_channels_that_are_copied_together_are_copied_for_few_bands():
    layer, target = Layer((1, 14, 14, 512), (3, 3), **SAME), replace(ONE_CORE, cores=2)
    tile = tiles(depthwise_conv2d.KERNEL, layer.mod, target)[0]
    assert tile.copied and tile.bands == 2


@pytest.mark.parametrize("channels", [96, 61])  # whole vectors, and a last one that is cut short
def test_threads_share_channels_where_rows_do_not_divide(channels):
    layer, target = Layer((1, 7, 7, channels), (3, 3), **SAME), replace(ONE_CORE, cores=2)
    tile = tiles(depthwise_conv2d.KERNEL, layer.mod, target)[0]
    assert tile.bands * tile.parts % 2 == 0
    layer.check(tile, target)


def test_a_schedule_replays_from_its_trace():
    layer = Layer((1, 7, 9, 24), (3, 3), activation=(silu, torch.nn.functional.silu), **SAME)
    sch = scheduled(depthwise_conv2d.KERNEL, layer.mod, ONE_CORE)
    assert replays(sch, layer.mod)


def test_other_functions_are_not_its_own():
    x = te.placeholder((1, 4, 4, 16), "float32")
    assert kernel_of(function([x], topi.nn.relu(x))["main"]) is None


@pytest.mark.parametrize("name", ["x86-avx2", "cortex-a76"])
def test_other_cpus_compile(name):
    layer, target = Layer((1, 7, 9, 24), (3, 3), **SAME), targets.get(name)
    sch = scheduled(depthwise_conv2d.KERNEL, layer.mod, target)
    assembly = codegen.build(sch.mod, target).mod.inspect_source("asm")
    assert ("fmla" if name == "cortex-a76" else "vfmadd") in assembly
