"""Functions of int64 data, such as a gather by constant positions, compile for several threads and odd sizes; what a
schedule fails on is computed all the same.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import direct_conv2d
from tvm_sched.kernels.fusion import downstream, merge_epilogue
from tvm_sched.kernels.generic import reduce_lanes, reduce_rows
from tvm_sched.passes.tir.schedule_functions import APART, PLAIN
from tvm_sched.pipeline import Compilation


@pytest.mark.parametrize("family", ["host", "x86-avx2"])
def test_reflecting_padding_of_an_odd_image(family):
    target = targets.get(family)
    if not set(target.cpu_flags) <= targets.cpu_flags():
        pytest.skip(f"this CPU lacks {family}'s instructions")
    torch.manual_seed(0)
    network = nn.Conv2d(24, 16, 3, padding=1, padding_mode="reflect").eval()
    artifact = tvm_sched.compile(network, torch.randn(1, 24, 15, 23), target=replace(target, cores=2), threads=1)
    assert artifact.check() < 1e-5


class Block(nn.Module):
    """A convolution with an epilogue of several steps, and a softmax."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x):
        x = self.stem(x)
        return (torch.tanh(self.conv(x)) * x + 0.5).softmax(-1)


def compiled(network, x):
    """(the compilation's words on schedules, the artifact), the numbers checked."""
    compilation = Compilation(targets.host())
    pipeline.lower(torch_export.from_torch(network.eval(), x), compilation)
    artifact = tvm_sched.compile(network, x, threads=1)
    np.testing.assert_allclose(artifact(x.numpy()), network(x).detach().numpy(), rtol=0, atol=1e-5)
    return compilation.schedules, artifact


def test_an_epilogue_that_a_schedule_fails_on_is_computed_apart(monkeypatch):
    def merge_short_ones(sch, block):
        if len(downstream(sch, block)) > 1:
            raise ValueError("too long an epilogue")
        return merge_epilogue(sch, block)

    monkeypatch.setattr(direct_conv2d, "merge_epilogue", merge_short_ones)
    words, artifact = compiled(Block(), torch.randn(1, 3, 9, 11))
    assert any(APART in each for each in words.values())
    assert {layer.name: layer.schedule.endswith(APART) for layer in artifact.explain()} == {"stem": False, "conv": True}
    assert sum(artifact.schedules().values()) == 2  # of kernels: the second half of one is none


def test_a_function_that_the_rules_fail_on_has_plain_loops(monkeypatch):
    def fails(*_):
        raise ValueError("first line\nno rule for this")

    for rule in (reduce_rows, reduce_lanes):
        monkeypatch.setattr(rule, "schedule", fails)
    words, _ = compiled(Block(), torch.randn(1, 3, 9, 11))
    assert f"{PLAIN}: no rule for this" in words.values()


def test_a_kernel_that_fails_by_itself_is_an_error(monkeypatch):
    def fails(*_):
        raise ValueError("no schedule at all")

    monkeypatch.setattr(direct_conv2d, "merge_epilogue", fails)
    with pytest.raises(ValueError, match="no schedule at all"):
        compiled(Block(), torch.randn(1, 3, 9, 11))


def test_no_function_of_an_ordinary_network_is_left_to_the_net():
    words, _ = compiled(Block(), torch.randn(1, 3, 9, 11))
    assert not [each for each in words.values() if PLAIN in each or APART in each]
