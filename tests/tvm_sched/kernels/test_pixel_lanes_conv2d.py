"""The 1x1 convolution with lanes over pixels against NumPy: block sizes, pixels left over, fused chains, every tile,
threads, other CPUs.
"""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from te_run import function, replays, run, scheduled, tiles
from tvm import te, topi
from tvm.s_tir import Schedule

from tvm_sched import targets
from tvm_sched.kernels import kernel_of
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.narrow import pixel_lanes_conv2d
from tvm_sched.kernels.narrow.pixel_lanes_conv2d import PixelLanesProblem
from tvm_sched.targets import costs

ONE_CORE = replace(targets.host(), cores=1)


class Layer:
    """A layer with bias and ReLU, and optionally a residual, over blocks kept at random: the function, its inputs and
    NumPy's result.
    """

    def __init__(self, shape, channels, n=4, kept=None, residual=False, lanes=ONE_CORE.lanes, added=0):
        generator = np.random.default_rng(1)
        *rows, out_channels = shape
        pixels, groups = int(np.prod(rows)), out_channels // n
        blocks = np.stack([np.sort(generator.permutation(channels)[: kept or channels]) for _ in range(groups)])
        data = generator.standard_normal((groups, blocks.shape[1], 1, 1, n), "float32")
        self.shape = shape
        self.arrays = [generator.standard_normal((pixels, channels), "float32"), data, blocks.astype("int32")]
        self.arrays = self.arrays if kept else self.arrays[:2]
        inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        vectors = -(-pixels // lanes) + added
        y = pixel_lanes_conv2d.compute(*inputs, shape=shape, lanes=lanes, vectors=vectors)
        for extra in ((out_channels,), shape)[: 1 + residual]:
            inputs.append(te.placeholder(extra, "float32"))
            self.arrays.append(generator.standard_normal(extra, "float32"))
            y = topi.add(y, inputs[-1])
        self.mod = function(inputs, topi.nn.relu(y))
        weight = np.zeros((groups, n, channels))
        for group, kept_blocks in enumerate(blocks if kept else np.tile(np.arange(channels), (groups, 1))):
            weight[group][:, kept_blocks] = data[group, :, 0, 0].T
        expected = (self.arrays[0] @ weight.reshape(out_channels, channels).T).reshape(shape)
        self.expected = np.maximum(sum(self.arrays[-1 - residual :], start=expected), 0)

    def scheduled(self, tile=None, target=ONE_CORE) -> Schedule:
        return scheduled(pixel_lanes_conv2d.KERNEL, self.mod, target, tile)

    def check(self, tile=None, target=ONE_CORE):
        y = run(self.scheduled(tile, target), target, self.arrays, self.shape)
        np.testing.assert_allclose(y, self.expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("kept", [1, 7, None])
def test_block_sizes_and_densities(n, kept):
    Layer((1, 8, 8, 24), 20, n, kept).check()


@pytest.mark.parametrize("rows", [(1, 4, 4), (1, 7, 7), (3, 5, 7), (2, 14, 14), (31,), (2, 3, 4, 8), (1, 14, 14)])
@pytest.mark.parametrize("residual", [False, True])
def test_pixels_that_are_no_whole_vectors(rows, residual):
    Layer((*rows, 32), 16, kept=5, residual=residual).check()


@pytest.mark.parametrize("channels, out_channels", [(4, 4), (12, 20), (24, 40), (68, 28), (128, 64)])
@pytest.mark.parametrize("size", [8, 7])
def test_channels_that_are_no_whole_vectors(channels, out_channels, size):
    Layer((1, size, size, out_channels), channels, kept=channels // 4).check()


@pytest.mark.parametrize("first, cores", list(enumerate([1, 3])))
@pytest.mark.parametrize("size", [12, 7])
def test_every_tile_gives_the_same_numbers(first, cores, size):
    layer, target = Layer((1, size, size, 32), 16, 8, kept=3, residual=True), replace(ONE_CORE, cores=cores)
    for tile in tiles(pixel_lanes_conv2d.KERNEL, layer.mod, target)[first::4]:
        layer.check(tile, target)


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("cores", [1, 4])
def test_a_schedule_replays_from_its_trace(size, cores):
    layer = Layer((1, size, size, 32), 16, kept=4)
    assert replays(layer.scheduled(target=replace(ONE_CORE, cores=cores)), layer.mod)


@pytest.mark.parametrize("size", [8, 7])
def test_transposed_in_registers(size):
    """No element is gathered on its own: the scheduled function shuffles vectors, both ways."""
    assert Layer((1, size, size, 32), 16, kept=4).scheduled().mod.script().count("T.Shuffle") > 32


@pytest.mark.parametrize("added", [1, 2, 3])
@pytest.mark.parametrize("cores", [1, 2])
def test_vectors_behind_the_last_pixel(added, cores):
    layer, target = Layer((1, 7, 15, 32), 16, kept=5, residual=True, added=added), replace(ONE_CORE, cores=cores)
    for tile in tiles(pixel_lanes_conv2d.KERNEL, layer.mod, target)[::5]:
        layer.check(tile, target)


@pytest.mark.parametrize("pixels", [784, 49])
def test_an_image_is_filled_up_where_that_is_less_work(pixels):
    """784 pixels are 49 vectors: without more, tiles are of 1, 7 or all of them."""
    target = replace(targets.get("x86-avx512"), cores=1, fma_per_cycle=2, costs=costs.ZEN5)
    best = pixel_lanes_conv2d.best_filled(ConvProblem(1, 1, pixels, 128, 128, 32, 4), target)
    assert best.filled and best.vectors * 16 < 1.4 * pixels


def test_other_functions_are_not_its_own():
    x = te.placeholder((1, 4, 4, 16), "float32")
    assert kernel_of(function([x], topi.nn.relu(x))["main"]) is None


@pytest.mark.parametrize(
    "pixels, channels, out_channels, n, taken",
    [
        (49, 64, 64, 4, True),
        (49, 64, 64, 8, True),
        (49, 64, 64, 16, True),
        (49, 64, 64, 32, False),
        (1, 64, 64, 4, False),
        (49, 3, 64, 4, False),
        (49, 64, 66, 4, False),
    ],
)
def test_which_layers_it_takes(pixels, channels, out_channels, n, taken):
    assert pixel_lanes_conv2d.takes(pixels, channels, out_channels, n, targets.get("x86-avx512")) is taken


@pytest.mark.parametrize("n, taken", [(2, True), (4, True), (8, False)])
def test_where_scalars_come_from_lanes_a_block_of_one_vector_is_narrow(n, taken):
    assert pixel_lanes_conv2d.takes(49, 64, 64, n, targets.get("cortex-a76")) is taken


@pytest.mark.parametrize("size", [8, 7])
def test_blocks_of_a_whole_vector(size):
    """What Cortex-A76 runs of 1x4 blocks, in this machine's instructions."""
    Layer((1, size, size, 32), 16, n=4, kept=4, lanes=4).check(target=replace(ONE_CORE, lanes=4, scalar_operand="lane"))


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="runs AVX2 code")
@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("lanes", [8, 16])
def test_avx2_gives_the_same_numbers(size, lanes):
    """A vector of pixels is a register, or the two of a line of cache."""
    Layer((1, size, size, 32), 16, kept=4, residual=True, lanes=lanes).check(target=targets.get("x86-avx2"))


@pytest.mark.parametrize("name, lanes", [("x86-avx512", {16}), ("x86-avx2", {8, 16}), ("cortex-a76", {4, 16})])
def test_a_vector_of_pixels_is_a_register_or_a_line(name, lanes):
    """Few channels are read from the first cache, of many whole lines from the second."""
    target = replace(targets.get(name), cores=1)
    found = {
        pixel_lanes_conv2d.best_filled(ConvProblem(1, 1, 784, channels, 32, channels // 4, 4), target).lanes
        for channels in (16, 2048)
    }
    assert found == lanes == set(pixel_lanes_conv2d.lane_counts(target))


@pytest.mark.parametrize("n", [2, 4])
def test_cortex_a76_compiles(n):
    target = targets.get("cortex-a76")
    layer = Layer((1, 14, 14, 32), 16, n, kept=4, lanes=4)
    assembly = tvm.compile(layer.scheduled(target=target).mod, target=target.tvm()).mod.inspect_source("asm")
    assert "fmla" in assembly and "zip1" in assembly


def test_outputs_of_a_tile_are_not_spread_over_one_set():
    """Stored in 784 rows of 2 KiB at once, they took twice as long on Zen 5."""
    target = replace(targets.get("x86-avx512"), cores=1, costs=costs.ZEN5)
    for n in (4, 8):
        best, *_ = pixel_lanes_conv2d.KERNEL.tiles(
            PixelLanesProblem(ConvProblem(1, 1, 784, 128, 512 // n, 32, n), 16, 49), target
        )
        assert best.vectors < 49
