"""Layers whose Winograd rounding the outputs would show take a kernel that rounds less by themselves."""

import re

import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched.frontend import torch_export
from tvm_sched.verification import rounding


class Magnified(nn.Module):
    """The sine of a layer's result: what rounding of large numbers changes is seen in small ones."""

    def __init__(self, scale):
        super().__init__()
        self.before = nn.Conv2d(64, 64, 3, padding=1)
        self.after = nn.Conv2d(64, 64, 3, padding=1)
        nn.init.normal_(self.before.weight, std=scale / 24)

    def forward(self, x):
        return self.after(torch.sin(self.before(x)))


@pytest.fixture
def x():
    return torch.randn(1, 64, 24, 24, generator=torch.Generator().manual_seed(1))


def kernels(artifact):
    return {choice.name: choice.kernel for choice in artifact.explain()}


def test_a_network_that_shows_it_takes_a_smaller_tile_where_it_matters(x):
    torch.manual_seed(0)
    small, large = (tvm_sched.compile(Magnified(scale), x, threads=1) for scale in (1, 800))
    assert kernels(small)["before"].startswith("winograd F(4,3)")
    assert kernels(small)["after"].startswith("winograd F(4,3)")
    assert not kernels(large)["before"].startswith("winograd F(4,3)")
    assert kernels(large)["after"].startswith("winograd F(4,3)")
    before, after = large.explain()
    words = r"F\(4,3\) 1x\d+ left out: the outputs would show its rounding \(checked against PyTorch\)$"
    assert re.search(words, before.why)
    assert "left out" not in after.why
    assert large.manifest["check"]["verified"]


def test_a_network_that_shows_pytorchs_own_rounding_passes_and_says_so(x):
    torch.manual_seed(0)
    check = tvm_sched.compile(Magnified(6000), x, threads=1).manifest["check"]
    assert check["verified"] and check["error"] > check["tolerance"]
    (note,) = check["notes"]
    ours, theirs = map(float, re.findall(r" (\d\S+e-\d+)", note))
    assert note.startswith("the network magnifies rounding: output 'output' is") and ours <= 2 * theirs


def test_without_winograd_as_asked(x):
    torch.manual_seed(0)
    artifact = tvm_sched.compile(Magnified(1), x, threads=1, winograd=False)
    assert not any("winograd" in kernel for kernel in kernels(artifact).values())
    assert all(choice.why.endswith("left out: as asked") for choice in artifact.explain())
    assert artifact.manifest["check"]["error"] < 1e-5


def test_what_noise_in_a_layer_does_to_the_outputs_is_what_is_measured(x):
    torch.manual_seed(0)
    network = Magnified(3.0).eval()
    imported = torch_export.from_torch(network, x)
    shown = rounding.shown_by_layer(imported.core, [x.numpy()])
    with torch.no_grad():
        exact = network(x)
        for name in ("before", "after"):
            hook = getattr(network, name).register_forward_hook(
                lambda _layer, _inputs, z: z + 1e-4 * z.square().mean().sqrt() * torch.randn_like(z)
            )
            measured = (network(x) - exact).square().mean().sqrt() / 1e-4 / max(1.0, float(exact.abs().max()))
            hook.remove()
            assert shown[name] == pytest.approx(float(measured), rel=0.1)
