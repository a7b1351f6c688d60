"""Quantised networks unlike the usual ones, against PyTorch: signed activations throughout, concatenations of parts of
several scales, and residuals a thousand times larger or smaller than what they are added to.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zeros import prune

import tvm_sched
from tvm_sched.frontend import torch_export
from tvm_sched.verification.quantised import allowances

SHAPE = (1, 16, 12, 12)


class Signed(nn.Module):
    """No value is cut at zero: sums, hardswish, GELU, tanh and SiLU, margins and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 1)
        self.depthwise, self.last = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.first(x))
        x = F.gelu(self.second(x)) + x
        return self.last(F.silu(self.depthwise(x)))


class Concatenations(nn.Module):
    """Of parts that are made anew, moved and pooled, whose ranges are a hundred times apart; of two and of three."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.both, self.last = nn.Conv2d(48, 32, 1), nn.Conv2d(48, 16, 1)
        with torch.no_grad():
            self.one.weight.mul_(100)
            self.one.bias.mul_(100)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.relu(self.one(x)), self.other(x), F.max_pool2d(x, 3, 1, 1)
        both = torch.relu(self.both(torch.cat(parts, 1)))
        return self.last(torch.cat([both, F.avg_pool2d(x, 3, 1, 1)], 1))


class ScalesApart(nn.Module):
    """Residuals of a thousandth, and of a thousand times, what they are added to; a sum of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.last = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        with torch.no_grad():
            for layer, factor in ((self.small, 1e-3), (self.large, 1e3)):
                layer.weight.mul_(factor)
                layer.bias.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.small(x) + x)
        x = self.large(x) + x
        return self.last(torch.relu(x)) + x


@pytest.mark.parametrize("network", [Signed, Concatenations, ScalesApart])
def test_every_layer_is_in_integers_and_right_within_two_steps(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = prune(network(), 16, 0.5).eval()
    program = tvm_sched.quantize(module, [torch.randn(4, *SHAPE[1:]) for _ in range(2)])
    x = torch.randn(SHAPE)
    artifact = tvm_sched.compile(program, x, threads=1, check=False)
    assert {layer["precision"] for layer in artifact.manifest["layers"]} == {"int8"}
    with torch.no_grad():
        error = (artifact(x) - (expected := program.module()(x))).abs()
    (allowed,) = allowances(torch_export.from_torch(torch_export.fixed(program, x), x).core, [x.numpy()])
    assert error.max() <= allowed < 0.2 * expected.abs().max()
    assert error.square().mean().sqrt() < 0.1 * allowed  # a step is rare: most numbers are the same, bit for bit
