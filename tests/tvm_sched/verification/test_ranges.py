"""float16 in whole networks: numbers too large for it are found before building, and kept in float32; what the outputs
would show is refused or let through by PyTorch's own.
"""

import numpy as np
import pytest
import torch
from torch import nn
from zeros import calibrate

import tvm_sched
from subp_contract.errors import CheckFailed
from tvm_sched.frontend import torch_export
from tvm_sched.signature import check_inputs
from tvm_sched.verification.ranges import reaches


class Scaled(nn.Module):
    """Three layers; the second makes numbers `scale` times as large, which the third makes small again."""

    def __init__(self, scale: float):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second, self.third = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
        self.second.weight.data *= scale
        self.third.weight.data /= scale

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


def compiled(network, x):
    return tvm_sched.compile(network.eval(), x, target="cortex-a76", threads=1, precision="float16")


@pytest.fixture
def x():
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))


def test_layers_whose_numbers_are_too_large_stay_in_float32_and_are_told(x):
    artifact = compiled(Scaled(1e5), x)
    layers = {layer.name: layer for layer in artifact.explain()}
    assert {name: layer.precision for name, layer in layers.items()} == {
        "first": "float16",
        "second": "float32",
        "third": "float32",
    }
    assert "in float32: it makes numbers of" in layers["second"].why
    assert "in float32: it reads numbers of" in layers["third"].why
    assert artifact.manifest["check"]["verified"] and artifact.manifest["check"]["notes"] == []


def test_numbers_that_only_transforms_make_too_large_keep_a_layer_from_winograd(x):
    artifact = compiled(Scaled(3e3), x)
    assert {layer.precision for layer in artifact.explain()} == {"float16"}
    kernels = {layer.name: layer.kernel for layer in artifact.explain()}
    assert "winograd" in kernels["first"] and "winograd" not in kernels["second"]


def test_what_a_layer_reaches_is_what_it_reads_and_what_is_made_of_its_result(x):
    network = Scaled(10.0).eval()
    core = torch_export.from_torch(network, x).core
    found = reaches(core, [x.numpy()])
    with torch.no_grad():
        first = network.first(x)
        second = network.second(torch.relu(first))
    assert found["first"].read == pytest.approx(float(x.abs().max()))
    assert found["first"].made == pytest.approx(float(first.abs().max()))
    assert found["second"].made == pytest.approx(float(second.abs().max()))
    assert found["third"].read == pytest.approx(float(torch.relu(second).max()))


class Cancelling(nn.Module):
    """A layer whose large bias the next one takes away again: half precision has no fractions there."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        nn.init.constant_(self.first.bias, 1e4)
        with torch.no_grad():
            self.second.bias.copy_(-1e4 * self.second.weight.sum((1, 2, 3)))

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_a_network_that_needs_finer_numbers_is_refused_in_a_sentence(x):
    with pytest.raises(
        CheckFailed, match=r"^in float16 the network's output 'output' differs .* compile it in float32$"
    ):
        compiled(Cancelling(), x)


def test_a_network_that_magnifies_rounding_may_be_as_far_away_as_pytorchs_own_float16():
    """Normalised random layers, each of which magnifies what those before it round."""
    torch.manual_seed(0)
    layers = [each for _ in range(16) for each in (nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU())]
    x = torch.randn(1, 16, 6, 6)
    network = calibrate(nn.Sequential(*layers), torch.randn(8, 16, 6, 6))
    check = compiled(network, x).manifest["check"]
    (allowed,) = check["allowed"]
    with torch.no_grad():
        given = torch.from_numpy(np.array(check_inputs(torch_export.from_torch(network, x).signature.inputs, 0)[0]))
        expected = network(given)
        theirs = network.half()(given.half()).float()
    assert "magnifies rounding" in check["notes"][0]
    assert allowed == pytest.approx(3 * float((theirs - expected).abs().max()), rel=1e-3)
    assert check["tolerance"] < check["error"] < 0.1 * float(expected.abs().max())
