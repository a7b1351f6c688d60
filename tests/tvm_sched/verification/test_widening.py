"""Layers whose rounding to half precision the outputs would show stay in float32."""

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched.frontend import torch_export
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.verification.widening import WHY, wider


class Difference(nn.Module):
    """What `large` makes is a hundred and a little, of which `difference` leaves the little."""

    def __init__(self):
        super().__init__()
        self.large, self.difference, self.last = (nn.Conv2d(16, 16, 1) for _ in range(3))
        with torch.no_grad():
            self.large.bias.fill_(100.0)
            self.difference.weight -= self.difference.weight.mean(1, keepdim=True)
            self.last.weight.mul_(3)

    def forward(self, x):
        return self.last(self.difference(self.large(x)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Difference().eval(), torch.randn(1, 16, 8, 8)


def test_what_is_lost_in_float16_is_computed_in_float32(network):
    module, x = network
    artifact = tvm_sched.compile(module, x, target="cortex-a76", threads=1, precision="float16")
    said = artifact.manifest["check"]
    assert said["error"] <= said["tolerance"] and not said["notes"] and "allowed" not in said
    told = {layer.name: (layer.precision, WHY.format("float16") in layer.why) for layer in artifact.explain()}
    assert told["large"] == told["difference"] == ("float32", True)


def choice(name: str, macs: int) -> LayerChoice:
    return LayerChoice(name, "conv2d", "", None, 1.0, 0, 0, macs, "direct", "", kept_macs=macs, precision="float16")


def test_the_cheapest_layers_that_matter_are_chosen_and_no_more_than_are_needed(network):
    module, x = network
    core = torch_export.from_torch(module, x).core
    layers = [choice("large", 1), choice("difference", 1), choice("last", 1)]
    assert list(wider(layers, {}, core, [x.numpy()], 1.5, "float16")) == ["large"]
    costly = [choice("large", 10**9), choice("difference", 1), choice("last", 1)]
    assert list(wider(costly, {}, core, [x.numpy()], 1.5, "float16"))[-1] == "large"
    known = {"large": "before"}
    assert wider(layers, known, core, [x.numpy()], 1.5, "float16").items() > known.items()
    assert wider(layers, {}, core, [x.numpy()], np.inf, "float16") is None
    assert wider(layers, dict.fromkeys(("large", "difference", "last"), ""), core, [x.numpy()], 9.0, "float16") is None
