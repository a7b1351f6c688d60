"""Whole networks of bfloat16 against PyTorch with the same numbers rounded, and what is told of them."""

from dataclasses import replace

import numpy as np
import torch
from magnifying import Difference
from torch import nn
from zeros import prune

import tvm_sched
from tvm_sched import targets
from tvm_sched.passes.precision.bfloat16 import bfloat16  # noqa: F401  (the pass that these tests are of)

TARGET = replace(targets.get("x86-avx512-bf16"), cores=1)


class Residual(nn.Module):
    """A stem, a pool, a residual, a depthwise layer, a concatenation, a classifier; `narrow`: its numbers rounded."""

    def __init__(self, narrow: bool = False):
        super().__init__()
        self.narrow = narrow
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.first, self.second = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.depthwise, self.last = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(32, 32, 1)
        self.classifier = nn.Linear(32, 10)

    def number(self, x):
        return x.bfloat16().float() if self.narrow else x

    def layer(self, layer, x):
        bias = layer.bias[:, None, None]
        return layer._conv_forward(x, self.number(layer.weight), None) + bias

    def forward(self, x):
        x = self.number(torch.relu(self.layer(self.stem, self.number(x))))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        y = self.number(nn.functional.silu(self.layer(self.first, x)))
        y = self.number(torch.relu(self.layer(self.second, y) + x))
        z = self.number(nn.functional.relu6(self.layer(self.depthwise, y)))
        last = self.layer(self.last, torch.cat([y, z], 1))
        return self.classifier(nn.functional.adaptive_avg_pool2d(last, 1).flatten(1)), last


def network(narrow: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = Residual(narrow).eval()
    prune(made.first, 16, 0.5)
    return made


def test_a_network_equals_pytorch_with_the_same_numbers_rounded():
    """Rounding may go to either side of a tie, as sums are added in another order: once in some thousand numbers."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    artifact = tvm_sched.compile(network(), x, target=TARGET, precision="bfloat16")
    manifest = artifact.manifest
    assert manifest["check"]["verified"] and manifest["precision"] == "bfloat16"
    assert "avx512_bf16" in manifest["cpu_flags"]
    told = {layer.name: layer.precision for layer in artifact.explain()}
    assert told.pop("classifier") == "float32" and set(told.values()) == {"bfloat16"}
    if not targets.runs_here(TARGET):
        return
    with torch.no_grad():
        same, exact = network(narrow=True)(x), network()(x)
    for found, narrow, wide in zip(artifact(x), same, exact, strict=True):
        found = torch.as_tensor(found)
        error, loss = ((found - each).norm() / each.norm() for each in (narrow, wide))
        assert error < 2e-4 and 5e-4 < loss < 1e-2


def test_what_would_be_lost_is_computed_in_float32():
    torch.manual_seed(0)
    made = Difference(48).eval()
    artifact = tvm_sched.compile(made, torch.randn(1, 48, 8, 8), target=TARGET, precision="bfloat16")
    why = {layer.name: (layer.precision, layer.why) for layer in artifact.explain()}
    assert why["difference"][0] == "float32" and "would show its rounding to bfloat16" in why["difference"][1]
    assert artifact.manifest["check"]["error"] <= artifact.manifest["check"]["tolerance"]
    assert all(layer.weights_dtype == layer.precision for layer in artifact.explain())


class MinusZero(nn.Module):
    """Pools what is 0 or more, -0 among it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 1, bias=False), nn.Conv2d(16, 16, 1)

    def forward(self, x):
        return self.second(nn.functional.max_pool2d(torch.relu(-self.first(x)), 2))


def test_minus_zero_is_not_the_greatest():
    if not targets.runs_here(TARGET):
        return
    torch.manual_seed(0)
    made, x = MinusZero().eval(), torch.randn(1, 1, 8, 8)
    x[:, :, ::2] = 0
    found = tvm_sched.compile(made, x, target=TARGET, precision="bfloat16", check=False)(x)
    with torch.no_grad():
        assert (torch.as_tensor(found) - made(x)).abs().max() < 2e-2


def test_what_is_no_number_reaches_the_outputs_though_its_channel_is_skipped():
    if not targets.runs_here(TARGET):
        return
    layer = nn.Conv2d(32, 32, 1)
    with torch.no_grad():
        layer.weight[:, 8:] = 0
    x = torch.randn(1, 32, 4, 4)
    artifact = tvm_sched.compile(nn.Sequential(layer, nn.ReLU()).eval(), x, target=TARGET, precision="bfloat16")
    x[0, 20, 1, 1] = float("nan")
    assert np.isnan(np.asarray(artifact(x))).any()
