"""The Winograd kernel against PyTorch's convolution on the same blocks: all forms, odd images, every knob, fused
chains.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from te_run import function, replays, run, tiles
from tvm import te, topi
from tvm.s_tir import Schedule

from tvm_sched import targets
from tvm_sched.kernels import kernel_of, winograd_conv2d
from tvm_sched.kernels.winograd_conv2d import WinogradTile
from tvm_sched.kernels.winograd_variants import VARIANTS, Variant

ONE_CORE = replace(targets.host(), cores=1)
LANES = ONE_CORE.lanes
F4X3 = Variant(4, 3)  # F(4x4, 3x3)


def transformed(data: np.ndarray, variant: Variant) -> np.ndarray:
    """G w G^T of each kernel of `[G, K, r, r, N]`, by matrix products."""
    g = np.array(variant.weight)
    return np.einsum("ir,bkrsn,js->ijbkn", g, data, g).astype("float32")


class Layer:
    """A layer of unit-scale outputs with bias, residual, activation: the function, its inputs and PyTorch's result."""

    def __init__(
        self,
        shape,
        out_channels,
        n=16,
        kept=None,
        variant=F4X3,
        padding=(1, 1, 1, 1),
        activation=(topi.nn.relu, torch.relu),
    ):
        generator = np.random.default_rng(2)
        batch, height, width, channels = shape
        groups, count = out_channels // n, kept or channels
        blocks = np.stack([np.sort(generator.permutation(channels)[:count]) for _ in range(groups)])
        taps = variant.taps
        data = generator.standard_normal((groups, count, taps, taps, n), "float32") / np.sqrt(
            taps**2 * count, dtype="float32"
        )
        top, left, bottom, right = padding
        self.shape = (batch, height + top + bottom - taps + 1, width + left + right - taps + 1, out_channels)
        x = generator.standard_normal(shape, "float32")
        extras = [generator.standard_normal(each, "float32") for each in ((out_channels,), self.shape)]
        packed = [transformed(data, variant)] + ([blocks.astype("int32")] if kept else [])
        self.arrays = [x, *packed, *extras]
        inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        y = winograd_conv2d.compute(*inputs[:-2], variant=variant, padding=padding)
        self.mod = function(inputs, activation[0](topi.add(topi.add(y, inputs[-2]), inputs[-1])))

        weight = torch.zeros(out_channels, channels, taps, taps)
        for group, kept_blocks in enumerate(blocks):
            weight[group * n : (group + 1) * n, kept_blocks] = torch.from_numpy(data[group]).permute(3, 0, 1, 2)
        padded = torch.nn.functional.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (left, right, top, bottom))
        expected = torch.nn.functional.conv2d(padded, weight).permute(0, 2, 3, 1)
        self.expected = activation[1](expected + torch.from_numpy(extras[0]) + torch.from_numpy(extras[1])).numpy()

    def check(self, tile=None, target=ONE_CORE):
        sch = Schedule(self.mod)
        winograd_conv2d.schedule(sch, tile or tiles(winograd_conv2d.KERNEL, sch.mod, target)[0], target)
        np.testing.assert_allclose(run(sch, target, self.arrays, self.shape), self.expected, rtol=0, atol=1e-4)
        return sch


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(3, 3), (3, 5), (4, 4), (7, 7), (9, 13), (14, 14)])
def test_images_that_tiles_do_not_divide(variant, size):
    Layer((2, *size, LANES), 2 * LANES, kept=5, variant=variant).check()


def test_an_image_of_one_pixel():
    Layer((1, 1, 1, LANES), LANES, kept=5).check()


@pytest.mark.parametrize("n, out_channels", [(4, 16), (8, 48), (16, 48), (32, 64), (64, 64)])
@pytest.mark.parametrize("kept", [1, 7, None])
def test_block_sizes_and_densities(n, out_channels, kept):
    Layer((1, 8, 8, 32), out_channels, n=n, kept=kept).check()


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 0, 3)])
def test_paddings(padding):
    Layer((1, 9, 8, 16), 16, kept=4, padding=padding).check()


def test_an_activation_that_reads_its_input_twice():
    Layer(
        (1, 6, 6, 16), 32, kept=4, activation=(lambda y: topi.multiply(y, topi.sigmoid(y)), torch.nn.functional.silu)
    ).check()


@pytest.mark.parametrize("first, variant", list(enumerate([Variant(2, 3), Variant(4, 3)])))
def test_every_knob_gives_the_same_numbers(first, variant):
    layer = Layer((3, 12, 10, 16), 64, kept=6, variant=variant)
    for tile in tiles(winograd_conv2d.KERNEL, layer.mod, ONE_CORE)[first::2]:
        layer.check(tile)


def test_a_tile_of_products_that_crosses_rows_of_tiles():
    layer = Layer((1, 9, 13, 32), 48, kept=5)
    layer.check(WinogradTile(rows=3, cols=6, block_rows=3))
    layer.check(WinogradTile(rows=3, cols=7, block_rows=1))


@pytest.mark.parametrize("cores", [2, 64])
def test_threads_share_bands_or_the_stages_of_a_band(cores):
    Layer((1, 12, 12, 16), 32, kept=4).check(target=replace(ONE_CORE, cores=cores))


@pytest.mark.parametrize("target", [targets.X86_AVX2, targets.X86_AVX512])
def test_other_x86_targets(target):
    if set(target.cpu_flags) <= targets.cpu_flags():
        Layer((1, 10, 10, 32), 32, kept=8).check(target=replace(target, cores=1))
    else:
        pytest.skip(f"this CPU lacks {target.name}'s instructions")


@pytest.mark.parametrize("kept", [5, 6, 8])
def test_channels_that_a_step_takes_together_give_the_same_numbers(kept):
    """The schedule of a Cortex-A76 in this machine's instructions; pieces of 1, 2 and 2 x 2 channels."""
    Layer((1, 9, 9, 16), 32, n=4, kept=kept).check(target=replace(ONE_CORE, lanes=4, scalar_operand="lane"))


def test_the_schedule_replays_from_a_record():
    layer = Layer((1, 9, 9, 16), 32, kept=4)
    assert replays(layer.check(), layer.mod)


def test_weights_are_transformed_as_the_matrices_say():
    for variant in VARIANTS:
        data = np.random.default_rng(0).standard_normal((2, 3, variant.taps, variant.taps, 16), "float32")
        g = np.array(variant.weight, "float32")
        inputs = [te.placeholder(array.shape, "float32") for array in (data, g)]
        sch = Schedule(function(inputs, winograd_conv2d.transform_weight(*inputs)))
        y = run(sch, ONE_CORE, [data, g], (variant.size, variant.size, 2, 3, 16))
        np.testing.assert_allclose(y, transformed(data, variant), rtol=0, atol=1e-6)


def test_forms_are_exact_on_integers():
    """A^T ((G w) * (B^T d)) is the correlation of d with w, in exact arithmetic."""
    for variant in VARIANTS:
        d, w = list(range(3, 3 + variant.size)), [2, -5, 7, 3, -4][: variant.taps]
        u = [sum(Fraction(row[r]).limit_denominator(24) * w[r] for r in range(variant.taps)) for row in variant.weight]
        y = variant.output([a * b for a, b in zip(u, variant.input(d), strict=True)])
        assert y == [sum(d[i + r] * w[r] for r in range(variant.taps)) for i in range(variant.m)]


def test_a_function_of_another_kernel_is_left_alone():
    x = te.placeholder((1, 4, 4, 16), "float32")
    assert kernel_of(function([x], topi.nn.relu(x))["main"]) is None
