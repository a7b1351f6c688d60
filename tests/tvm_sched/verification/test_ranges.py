"""float16 in whole networks: numbers too large for it are found before building, and kept in float32; what the outputs
would show is refused or let through by PyTorch's own.
"""

import pytest
import torch
from torch import nn
from zeros import calibrate

import tvm_sched
from tvm_sched.frontend import torch_export
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


def test_a_network_that_magnifies_rounding_keeps_its_first_layers_in_float32():
    """Normalised random layers, each of which magnifies what those before it round."""
    torch.manual_seed(0)
    layers = [each for _ in range(16) for each in (nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU())]
    x = torch.randn(1, 16, 6, 6)
    artifact = compiled(calibrate(nn.Sequential(*layers), torch.randn(8, 16, 6, 6)), x)
    said = artifact.manifest["check"]
    assert said["error"] <= said["tolerance"] and not said["notes"]
    precisions = [layer.precision for layer in artifact.explain()]
    assert precisions[0] == "float32" and precisions[-1] == "float16"
