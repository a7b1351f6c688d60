"""The convolution with lanes over pixels of planes against PyTorch: kernels, strides, dilations, blocks, bands, every
tile, threads, other CPUs.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from te_run import function, replays, run, scheduled, tiles
from tvm import te, topi

from tvm_sched import targets
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.narrow import planes_conv2d
from tvm_sched.kernels.narrow.planes_conv2d import KERNEL, PlanesProblem

ONE_CORE = replace(targets.host(), cores=1)


class Layer:
    """A layer with bias, ReLU and optionally a residual over blocks kept at random: the function, its inputs, and
    PyTorch's result.
    """

    def __init__(
        self, image=(1, 9, 9, 8), outputs=16, n=4, kept=3, kernel=(3, 3), residual=False, lanes=None, **options
    ):
        generator = np.random.default_rng(1)
        channels = image[-1]
        stride, dilation = options.get("stride", (1, 1)), options.get("dilation", (1, 1))
        top, left, bottom, right = options.get("padding", (0, 0, 0, 0))
        groups = outputs // n
        blocks = np.stack([np.sort(generator.permutation(channels)[: kept or channels]) for _ in range(groups)])
        data = generator.standard_normal((groups, blocks.shape[1], *kernel, n), "float32")
        x = generator.standard_normal(image, "float32")
        self.arrays = [x, data, blocks.astype("int32")][: 3 if kept else 2]
        inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        weight = np.zeros((groups, n, channels, *kernel), "float32")
        for group, row in enumerate(blocks):
            weight[group][:, row] = data[group].transpose(3, 0, 1, 2)
        padded = torch.nn.functional.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (left, right, top, bottom))
        weight = torch.from_numpy(weight.reshape(outputs, channels, *kernel))
        expected = torch.nn.functional.conv2d(padded.double(), weight.double(), stride=stride, dilation=dilation)
        self.expected = expected.permute(0, 2, 3, 1).numpy()
        self.shape = self.expected.shape
        options["band"] = options.get("band", self.shape[1])
        y = planes_conv2d.compute(*inputs, lanes=lanes or ONE_CORE.lanes, **options)
        for extra in ((outputs,), self.shape)[: 1 + residual]:
            inputs.append(te.placeholder(extra, "float32"))
            self.arrays.append(generator.standard_normal(extra, "float32"))
            y = topi.add(y, inputs[-1])
            self.expected = self.expected + self.arrays[-1]
        self.expected = np.maximum(self.expected, 0)
        self.mod = function(inputs, topi.nn.relu(y))

    def check(self, tile=None, target=ONE_CORE):
        y = run(scheduled(KERNEL, self.mod, target, tile), target, self.arrays, self.shape)
        np.testing.assert_allclose(y, self.expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": (2, 2), "padding": (1, 1, 1, 1)},
        {"stride": (2, 1), "padding": (0, 1, 2, 0), "residual": True},
        {"padding": (1, 1, 1, 1), "dilation": (2, 3), "image": (1, 11, 9, 8)},
        {"stride": (3, 2), "dilation": (2, 1), "image": (2, 12, 15, 8)},
        {"stride": (2, 2), "kernel": (1, 3), "padding": (0, 1, 0, 1)},
        {"stride": (2, 2), "kernel": (5, 5), "padding": (2, 2, 2, 2), "kept": None},
        {"stride": (3, 3), "kernel": (2, 2), "image": (1, 8, 40, 20), "outputs": 20},
        {"kernel": (1, 1), "stride": (2, 2), "image": (2, 8, 8, 12)},
    ],
)
def test_kernels_strides_and_dilations(options):
    Layer(**options).check()


@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_block_sizes(n):
    Layer(n=n, stride=(2, 2), padding=(1, 1, 1, 1)).check()


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("band", [1, 2, 4])
def test_bands_and_threads(band, cores):
    layer = Layer((1, 8, 13, 8), band=band, stride=(2, 1), padding=(1, 1, 1, 1), residual=True)
    layer.check(target=replace(ONE_CORE, cores=cores))


def test_every_tile_gives_the_same_numbers():
    layer = Layer((1, 12, 24, 4), outputs=4, kept=2, padding=(1, 1, 1, 1))
    for tile in tiles(KERNEL, layer.mod, ONE_CORE)[::6]:
        layer.check(tile)


def test_a_schedule_replays_from_its_trace():
    layer = Layer(stride=(2, 2), padding=(1, 1, 1, 1))
    assert replays(scheduled(KERNEL, layer.mod, ONE_CORE), layer.mod)


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="runs AVX2 code")
def test_avx2_gives_the_same_numbers():
    Layer(stride=(2, 2), padding=(1, 1, 1, 1), lanes=8).check(target=replace(targets.get("x86-avx2"), cores=1))


def test_cortex_a76_compiles():
    target = replace(targets.get("cortex-a76"), cores=1)
    mod = scheduled(KERNEL, Layer(stride=(2, 2), padding=(1, 1, 1, 1), lanes=4).mod, target).mod
    assert "fmla" in tvm.compile(mod, target=target.tvm()).mod.inspect_source("asm")


def test_positions_of_a_strided_image():
    """ResNet-18's 56x56 -> 28x28: four planes of 32 positions a row, of which an output's neighbours are 29."""
    conv = ConvProblem(1, 28, 28, 64, 32, 16, 4, (3, 3), (2, 2), padded=True)
    problem = PlanesProblem(conv, (1, 1), 16, 4)
    assert (problem.phases, problem.beside, problem.pitch) == ((2, 2), (1, 1), 32)
    assert (problem.bands, problem.vectors, problem.lines) == (7, 8, 6)


def test_the_cheapest_bands_fit_the_second_cache():
    """All 56 rows of 128 channels would be 1.9 MB, of which each block row reads a part."""
    target = replace(targets.get("x86-avx512"), cores=1)
    conv = ConvProblem(1, 28, 28, 128, 32, 32, 4, (3, 3), (2, 2), padded=True)
    band = planes_conv2d.best_band(PlanesProblem(conv, (1, 1), 16, 1), target)
    assert 4 * 128 * 4 * band.lines * band.pitch < target.l2_bytes and band.bands > 1
