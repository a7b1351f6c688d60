"""The block-sparse convolution against PyTorch: shapes, block sizes, densities, fused chains, all tiles, other CPUs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from te_run import function, replays, run, scheduled, tiles
from tvm import te, topi
from tvm.s_tir import Schedule

from tvm_sched import codegen, targets
from tvm_sched.kernels import direct_conv2d, kernel_of
from tvm_sched.kernels.register_tile import Tile

ONE_CORE = replace(targets.host(), cores=1)
SAME = {"padding": (1, 1, 1, 1)}


def silu(x):
    return topi.multiply(x, topi.sigmoid(x))


class Layer:
    """A layer with bias, optional residual and activation, over blocks kept at random: the function, its inputs and
    PyTorch's result.
    """

    def __init__(
        self,
        shape,
        out_channels,
        n=16,
        kept=None,
        kernel=(3, 3),
        residual=False,
        activation=None,
        linear=False,
        **geometry,
    ):
        generator = np.random.default_rng(1)
        channels, groups = shape[-1], -(-out_channels // n)
        count = channels if kept is None else kept
        blocks = np.stack([np.sort(generator.permutation(channels)[:count]) for _ in range(groups)])
        if kept is None:
            blocks = np.tile(np.arange(channels), (groups, 1))
        data = generator.standard_normal((groups, count, *kernel, n), "float32")
        data.reshape(groups, -1, n)[-1, :, n - (groups * n - out_channels) :] = 0
        self.arrays = [generator.standard_normal(shape, "float32"), data]
        self.arrays += [] if kept is None else [blocks.astype("int32")]
        inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        compute = direct_conv2d.linear if linear else direct_conv2d.conv2d
        y = compute(*inputs, out_channels=out_channels, **geometry)
        self.shape = tuple(int(extent) for extent in y.shape)
        for extra in ((out_channels,), self.shape)[: 1 + residual]:
            inputs.append(te.placeholder(extra, "float32"))
            self.arrays.append(generator.standard_normal(extra, "float32"))
            y = topi.add(y, inputs[-1])
        self.mod = function(inputs, activation[0](y) if activation else y)
        weight = np.zeros((groups * n, channels, *kernel), "float32")
        for group, kept_blocks in enumerate(blocks):
            for block, channel in enumerate(kept_blocks):
                weight[group * n : (group + 1) * n, channel] = np.moveaxis(data[group, block], -1, 0)
        x, weight = torch.from_numpy(self.arrays[0]), torch.from_numpy(weight[:out_channels])
        extras = [torch.from_numpy(array) for array in self.arrays[len(inputs) - 1 - residual :]]
        if linear:
            expected = x @ weight[:, :, 0, 0].T
        else:
            top, left, bottom, right = geometry.get("padding", (0, 0, 0, 0))
            x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
            options = {key: geometry[key] for key in ("stride", "dilation") if key in geometry}
            expected = torch.nn.functional.conv2d(x, weight, **options).permute(0, 2, 3, 1)
        expected = sum(extras, start=expected)
        self.expected = (activation[1](expected) if activation else expected).numpy()

    def scheduled(self, tile=None, target=ONE_CORE) -> Schedule:
        return scheduled(direct_conv2d.KERNEL, self.mod, target, tile)

    def check(self, tile=None, target=ONE_CORE):
        y = run(self.scheduled(tile, target), target, self.arrays, self.shape)
        np.testing.assert_allclose(y, self.expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("kept", [1, 5, 24, None])
@pytest.mark.parametrize("kernel", [1, 3])
def test_block_sizes_and_densities(n, kept, kernel):
    Layer((1, 7, 7, 24), 64, n, kept, (kernel, kernel), padding=(kernel // 2,) * 4).check()


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (7, 7), (8, 5), (14, 14)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_images_and_strides(size, stride, kernel):
    Layer(
        (1, *size, 20), 32, kept=7, kernel=(kernel, kernel), stride=(stride, stride), padding=(kernel // 2,) * 4
    ).check()


@pytest.mark.parametrize(
    "kernel, geometry",
    [
        ((3, 3), {}),
        ((3, 3), {"padding": (0, 1, 2, 0)}),
        ((1, 7), {"padding": (0, 3, 0, 3)}),
        ((7, 1), {"padding": (3, 0, 3, 0), "stride": (2, 1)}),
        ((3, 3), {"padding": (2, 2, 2, 2), "dilation": (2, 2)}),
        ((2, 3), {"padding": (1, 0, 2, 3), "dilation": (1, 3), "stride": (1, 2)}),
        ((5, 5), {"padding": (2, 2, 2, 2)}),
        ((1, 1), {"padding": (1, 1, 1, 1)}),
    ],
)
def test_uneven_padding_dilation_and_kernels(kernel, geometry):
    Layer((1, 11, 12, 16), 32, kept=5, kernel=kernel, **geometry).check()


def test_stem_of_three_channels():
    Layer((1, 32, 32, 3), 64, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)).check()


@pytest.mark.parametrize("kept", [3, None])
@pytest.mark.parametrize("kernel", [1, 3])
def test_several_images(kept, kernel):
    Layer((3, 7, 7, 16), 32, kept=kept, kernel=(kernel, kernel), padding=(kernel // 2,) * 4).check()


@pytest.mark.parametrize("out_channels, n", [(10, 16), (40, 16), (58, 16), (1, 4), (33, 32), (100, 64)])
@pytest.mark.parametrize("residual", [False, True])
def test_output_channels_that_blocks_do_not_divide(out_channels, n, residual):
    Layer((1, 6, 5, 12), out_channels, n, 5, residual=residual, activation=(topi.nn.relu, torch.relu), **SAME).check()


@pytest.mark.parametrize("channels", [128, 256, 512])
def test_rows_spaced_apart_where_they_would_share_cache_sets(channels):
    Layer((1, 7, 7, channels), 32, kept=40, **SAME).check()


@pytest.mark.parametrize("activation", [(topi.nn.relu, torch.relu), (silu, torch.nn.functional.silu)])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_what_follows_is_fused(activation, residual, kernel):
    layer = Layer(
        (2, 7, 9, 16),
        32,
        kept=4,
        kernel=(kernel, kernel),
        padding=(kernel // 2,) * 4,
        residual=residual,
        activation=activation,
    )
    layer.check()
    sch = layer.scheduled()
    names = {buffer.name for buffer in sch.get(sch.get_sblock("root")).alloc_buffers if buffer.scope() == "global"}
    assert names <= {"pad"}


def test_a_result_that_scales_an_image_is_computed_once():
    """Squeeze and excitation: Relax fuses the gate's convolution with the product."""
    x, data, image = (te.placeholder(shape, "float32") for shape in ((1, 1, 1, 8), (2, 8, 1, 1, 16), (1, 7, 6, 32)))
    gate = topi.sigmoid(direct_conv2d.conv2d(x, data, out_channels=32))
    mod = function([x, data, image], topi.multiply(image, gate))
    sch = scheduled(direct_conv2d.KERNEL, mod, ONE_CORE)
    assert replays(sch, mod)
    generator = np.random.default_rng(1)
    arrays = [generator.standard_normal([int(n) for n in each.shape], "float32") for each in (x, data, image)]
    weight = arrays[1][:, :, 0, 0].transpose(0, 2, 1).reshape(32, 8)
    expected = arrays[2] / (1 + np.exp(-arrays[0] @ weight.T))
    np.testing.assert_allclose(run(sch, ONE_CORE, arrays, (1, 7, 6, 32)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (24,), (2, 5, 24)])
@pytest.mark.parametrize("kept", [6, None])
def test_linear_layers_of_any_rank(shape, kept):
    Layer(shape, 40, kept=kept, kernel=(1, 1), linear=True, activation=(topi.nn.relu, torch.relu)).check()


@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("first, cores", [(0, 1), (4, 4)])
def test_every_tile_gives_the_same_numbers(kernel, stride, first, cores):
    layer = Layer(
        (1, 6, 7, 16), 64, kept=3, kernel=(kernel, kernel), stride=(stride, stride), padding=(kernel // 2,) * 4
    )
    target = replace(ONE_CORE, cores=cores)
    for tile in tiles(direct_conv2d.KERNEL, layer.mod, target)[first::8]:
        layer.check(tile, target)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_schedule_replays_from_its_trace(kernel):
    layer = Layer(
        (2, 7, 9, 16),
        40,
        kept=4,
        kernel=(kernel, kernel),
        padding=(kernel // 2,) * 4,
        activation=(silu, torch.nn.functional.silu),
    )
    assert replays(layer.scheduled(), layer.mod)


def test_other_functions_are_not_its_own():
    x = te.placeholder((1, 4, 4, 16), "float32")
    assert kernel_of(function([x], topi.nn.relu(x))["main"]) is None


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="runs AVX2 code")
@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_avx2_gives_the_same_numbers(n):
    Layer((1, 7, 9, 16), 64, n, 4, residual=True, activation=(topi.nn.relu, torch.relu), **SAME).check(
        target=targets.get("x86-avx2")
    )


@pytest.mark.parametrize("kept", [7, 10, 12])
@pytest.mark.parametrize("kernel, stride", [((1, 1), (1, 1)), ((1, 1), (2, 2)), ((3, 3), (1, 1))])
def test_channels_that_a_step_takes_together_give_the_same_numbers(kept, kernel, stride):
    """The schedule of a Cortex-A76 in this machine's instructions; pieces of 1, 2 and 2 x 2 channels."""
    target = replace(ONE_CORE, lanes=4, scalar_operand="lane")
    Layer((1, 7, 9, 16), 16, 4, kept, kernel, stride=stride, residual=True).check(target=target)


@pytest.mark.parametrize("n", [4, 16])
def test_cortex_a76_compiles(n):
    target = targets.get("cortex-a76")
    layer = Layer((1, 14, 14, 16), 64, n, 4, **SAME)
    assembly = codegen.build(layer.scheduled(target=target).mod, target).mod.inspect_source("asm")
    assert "fmla" in assembly


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((1, 8, 14, 16), Tile(1, 5, 1, 4)), ((2, 5, 6, 16), Tile(1, 4, 2, 6)), ((3, 7, 7, 16), Tile(1, 6, 1, 21))],
)
def test_bands_that_end_in_a_cut_tile_write_their_own_pixels_only(shape, tile):
    """The residual is written over, and would be read again, by a tile that went on into the next band."""
    x, data = te.placeholder(shape), te.placeholder((2, 16, 1, 1, 16))
    residual = te.placeholder((*shape[:3], 32))
    y = topi.add(direct_conv2d.conv2d(x, data, out_channels=32), residual)
    sch = Schedule(tvm.IRModule({"main": te.create_prim_func([x, data, residual, y])}))
    direct_conv2d.schedule(sch, tile, replace(targets.host(), cores=1))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(list(map(int, each.shape)), dtype="float32") for each in (x, data, residual)]
    expected = np.einsum("bhwc,gcijo->bhwgo", arrays[0], arrays[1]).reshape(arrays[2].shape) + arrays[2]
    *given, written = map(tvm.runtime.tensor, arrays)
    codegen.build(sch.mod, targets.host()).mod["main"](*given, written, written)
    np.testing.assert_allclose(written.numpy(), expected, rtol=1e-5, atol=1e-5)
