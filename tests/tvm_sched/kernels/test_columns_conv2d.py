"""The convolution over columns against PyTorch, and when it is chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from te_run import function, run, scheduled
from torch import nn
from tvm import te, topi
from zeros import keep_blocks

import tvm_sched
from subp_contract import pattern
from tvm_sched import targets
from tvm_sched.kernels import columns_conv2d
from tvm_sched.kernels.layer import Layer
from tvm_sched.planning.plan import choose

ONE_CORE = replace(targets.host(), cores=1)


def keep_columns(weight, n, kept, seed=0):
    """A copy of `weight [O, C, kh, kw]` in which each group of `n` outputs keeps `kept` random columns."""
    flat = np.pad(weight.reshape(len(weight), -1), ((0, -len(weight) % n), (0, 0)))
    return keep_blocks(flat, n, kept, seed)[: len(weight)].reshape(weight.shape)


def check(shape, out_channels, n, kept, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1)):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape, "float32")
    weight = keep_columns(rng.standard_normal((out_channels, shape[-1], *kernel), "float32"), n, kept)
    matrix = columns_conv2d.matrix(weight)
    data, indices = pattern.pack(matrix, pattern.kept_blocks(pattern.occupancy(matrix), n), n)
    assert data.shape[1] == kept
    arrays = [x, data, columns_conv2d.places(indices, shape[-1], kernel, dilation)]
    inputs = [te.placeholder(array.shape, str(array.dtype)) for array in arrays]
    geometry = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    y = topi.nn.relu(columns_conv2d.compute(*inputs, out_channels=out_channels, **geometry))
    sch = scheduled(columns_conv2d.KERNEL, function(inputs, y), ONE_CORE)
    top, left, bottom, right = padding
    image = nn.functional.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (left, right, top, bottom))
    expected = (
        nn.functional.conv2d(image, torch.from_numpy(weight), stride=stride, dilation=dilation)
        .relu()
        .permute(0, 2, 3, 1)
        .numpy()
    )
    np.testing.assert_allclose(
        run(sch, ONE_CORE, arrays, expected.shape), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("n", [4, 16, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_block_sizes_and_strides(n, stride):
    check((1, 9, 8, 20), 64, n, 37, stride=(stride, stride))


@pytest.mark.parametrize(
    "kernel, geometry",
    [
        ((3, 3), {"padding": (0, 0, 0, 0)}),
        ((3, 3), {"padding": (0, 1, 2, 0)}),
        ((1, 7), {"padding": (0, 3, 0, 3), "stride": (2, 1)}),
        ((2, 3), {"padding": (1, 0, 2, 3), "dilation": (1, 3), "stride": (1, 2)}),
        ((5, 5), {"padding": (2, 2, 2, 2), "dilation": (2, 2)}),
    ],
)
def test_uneven_padding_dilation_and_kernels(kernel, geometry):
    check((2, 11, 12, 16), 40, 16, 23, kernel=kernel, **geometry)


def test_channels_that_fill_lines_of_a_cache_and_a_single_column():
    check((1, 6, 6, 128), 32, 16, 300)
    check((1, 5, 5, 3), 16, 16, 1)


def layer(weight, size=14, **geometry):
    return Layer("conv2d 3x3", weight, (1, size, size, len(weight)), weight.shape[1], padding=(1, 1, 1, 1), **geometry)


def weights(out_channels=64, channels=64, seed=0):
    return np.random.default_rng(seed).standard_normal((out_channels, channels, 3, 3), "float32")


@pytest.mark.parametrize("size, stride", [(14, 2), (14, 1)])
def test_shared_patterns_run_over_columns_where_few_are_kept(size, stride):
    weight = keep_columns(weights(), 16, 29)  # 5 % of 576, and about a third of the channels of each group
    own = layer(weight, size, stride=(stride, stride))
    plan = choose(own, ONE_CORE)
    choice = plan.choice("name", "shape", own, stored=0)
    assert plan.form.kernel is columns_conv2d.KERNEL and choice.kernel == "columns 1x16"
    assert choice.kept_macs == size * size * 64 * 29
    assert "95% of the columns are skipped" in choice.why


def test_zeros_of_whole_kernels_never_run_over_columns():
    for density in (64, 32, 16, 6):
        for stride in (1, 2):
            weight = weights() if density == 64 else keep_blocks(weights(), 16, density)
            plan = choose(layer(weight, stride=(stride, stride)), ONE_CORE)
            assert plan.form.kernel is not columns_conv2d.KERNEL


def test_a_network_with_patterns_computes_what_pytorch_does():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 5),
    ]
    model = nn.Sequential(*layers).eval()
    for number in (0, 2):
        weight = model[number].weight
        weight.data = torch.from_numpy(keep_columns(weight.detach().numpy(), 16, 12))
    x = torch.randn(1, 16, 8, 8)
    artifact = tvm_sched.compile(model, x, target="host")
    assert [choice.kernel.split()[0] for choice in artifact.explain()][:2] == ["columns", "columns"]
    np.testing.assert_allclose(artifact(x.numpy()), model(x).detach().numpy(), rtol=1e-5, atol=1e-5)
