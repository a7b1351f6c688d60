"""Functions of int64 data, such as a gather by constant positions, compile for several threads and odd sizes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched import targets


@pytest.mark.parametrize("family", ["host", "x86-avx2"])
def test_reflecting_padding_of_an_odd_image(family):
    target = targets.get(family)
    if not set(target.cpu_flags) <= targets.cpu_flags():
        pytest.skip(f"this CPU lacks {family}'s instructions")
    torch.manual_seed(0)
    network = nn.Conv2d(24, 16, 3, padding=1, padding_mode="reflect").eval()
    artifact = tvm_sched.compile(network, torch.randn(1, 24, 15, 23), target=replace(target, cores=2), threads=1)
    assert artifact.check() < 1e-5
