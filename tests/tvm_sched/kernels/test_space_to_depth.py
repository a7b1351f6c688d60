"""Strided convolutions after space-to-depth: the rearranged image and weight, and whole layers against PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from te_run import function, replays, run
from torch import nn
from tvm import te, topi
from tvm.s_tir import Schedule

import tvm_sched
from tvm_sched import targets
from tvm_sched.kernels import space_to_depth

ONE_CORE = replace(targets.host(), cores=1)


def scheduled(input_shape, channels_first=False, target=ONE_CORE, **knobs):
    x = te.placeholder(input_shape, "float32")
    image = topi.transpose(x, (0, 2, 3, 1)) if channels_first else x
    sch = Schedule(function([x], space_to_depth.compute(image, **knobs)))
    space_to_depth.schedule(sch, target)
    return sch


@pytest.mark.parametrize("stride, size, padding", [(2, 7, 3), (2, 5, 2), (4, 11, 2), (3, 9, 0), (2, 8, 1)])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_the_convolution_is_the_same_after_space_to_depth(stride, size, padding, channels):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 29, 31, channels), "float32")
    weight = generator.standard_normal((4, channels, size, size), "float32") / size
    height, width = ((extent + 2 * padding - size) // stride + 1 for extent in (29, 31))
    taps = -(-size // stride)
    shape = (height + taps - 1, width + taps - 1, stride * stride * channels + 5)
    made = run(scheduled(x.shape, stride=stride, padding=(padding, padding), shape=shape), ONE_CORE, [x], (2, *shape))
    assert not made[..., stride * stride * channels :].any()
    image = torch.from_numpy(made[..., : stride * stride * channels]).permute(0, 3, 1, 2)
    deep = torch.nn.functional.conv2d(image, torch.from_numpy(space_to_depth.deep_weight(weight, stride)))
    plain = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight), stride=stride, padding=padding
    )
    torch.testing.assert_close(deep, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_permutation_is_done_on_the_way(cores):
    target = replace(ONE_CORE, cores=cores)
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 14), "float32")
    sch = scheduled(x.shape, True, target, stride=2, padding=(3, 3), shape=(9, 10, 16))
    made = run(sch, target, [x], (1, 9, 10, 16))
    padded = np.pad(x[0].transpose(1, 2, 0), ((3, 3), (3, 3), (0, 0)))
    expected = padded.reshape(9, 2, 10, 2, 3).transpose(0, 2, 1, 3, 4).reshape(9, 10, 12)
    np.testing.assert_array_equal(made[0, ..., :12], expected)
    assert not made[..., 12:].any()


def test_the_schedule_replays_from_a_record():
    x = te.placeholder((1, 12, 12, 3), "float32")
    mod = function([x], space_to_depth.compute(x, stride=2, padding=(3, 3), shape=(9, 9, 16)))
    sch = Schedule(mod)
    space_to_depth.schedule(sch, ONE_CORE)
    assert replays(sch, mod)


@pytest.mark.parametrize("size, stride, padding", [(7, 2, 3), (11, 4, 2), (5, 2, 2)])
@pytest.mark.parametrize("pruned", [False, True])
def test_stems_of_networks_run_after_space_to_depth(size, stride, padding, pruned):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 64, size, stride, padding)
    if pruned:
        conv.weight.data[:16, 1] = 0
        conv.weight.data[16:32, 0] = 0
    x = torch.randn(1, 3, 96, 80)
    network = nn.Sequential(conv, nn.ReLU()).eval()
    compiled = tvm_sched.compile(network, x, target="x86-avx2" if "avx2" in targets.cpu_flags() else "host", threads=1)
    (layer,) = compiled.explain()
    assert "after space-to-depth" in layer.kernel
    assert layer.kept_macs <= layer.macs
    np.testing.assert_allclose(compiled(x.numpy()), network(x).detach().numpy(), rtol=0, atol=1e-4)
