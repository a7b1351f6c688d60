"""Batches in parts: as many images at a time as the caches hold, and the same numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched.frontend.batches import parts


class Mixing(nn.Module):
    """Images influence one another."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize("cache, expected", [(1, 6), (3 * 4 * 16 * 100, 6), (2 * 3 * 4 * 16 * 100, 3), (1 << 30, 1)])
def test_as_many_images_as_the_cache_holds(cache, expected):
    assert parts(network(), torch.zeros(6, 3, 10, 10), cache) == expected


def test_networks_that_need_their_batch_whole():
    assert parts(Mixing(), torch.zeros(6, 8), 1) == 1
    assert parts(nn.Unflatten(0, (2, 3)), torch.zeros(6, 8), 1) == 1
    x = torch.zeros(6, 3, 10, 10)
    assert parts(torch.export.export(network().eval(), (x,)), x, 1) == 1


@pytest.mark.parametrize("cache", [1, 1 << 30])
def test_every_layer_keeps_its_mode(cache):
    module = network().train()
    module[1].eval()
    parts(module, torch.zeros(4, 3, 10, 10), cache)
    assert [layer.training for layer in module.modules()] == [True, True, False, True, True, True]


def test_a_batch_in_parts_gives_what_pytorch_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("tvm_sched.frontend.batches.TENSORS", 1 << 20)
    module, x = network().eval(), torch.randn(6, 3, 10, 10)
    compiled = tvm_sched.compile(module, x, threads=1)
    assert compiled.manifest["parts"] == 6
    compiled.save(tmp_path / "net.so")
    for artifact in (compiled, tvm_sched.load(tmp_path / "net.so")):
        np.testing.assert_allclose(artifact(x.numpy()), module(x).detach().numpy(), rtol=0, atol=1e-5)
        assert artifact.check() < 1e-5
        assert artifact.cost().dense_macs == 6 * (16 * 3 * 9 * 100 + 32 * 16 * 9 * 16)
