"""NaN and infinities go through operators as they do in PyTorch."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tvm_sched

NUMBERS = torch.tensor(
    [math.nan, math.inf, -math.inf, 0, 1, -1, 2.5, -3, 88.6, 88.8, 1000, -1000, -90, 5.5, 1e20, 0.3] * 4
)
OPERATORS: dict[str, Callable] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(-1, 2),
    "clamp below": lambda x: x.clamp(min=0.5),
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "softplus": F.softplus,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "square": lambda x: x**2,
    "x - x": lambda x: x - x,
    "x / x": lambda x: x / x,
    "0 x": lambda x: x * 0.0,
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "minimum": lambda x: torch.minimum(x.flip(0), x),
    "where": lambda x: torch.where(x > 0, x, -x),
    "softmax": lambda x: x.view(4, 16).T.softmax(-1),
    "log_softmax": lambda x: x.view(4, 16).T.log_softmax(-1),
    "logsumexp": lambda x: x.view(4, 16).T.logsumexp(-1),
    "amax": lambda x: x.view(4, 16).T.amax(-1),
    "amin": lambda x: x.view(4, 16).amin(0),
    "argmax": lambda x: x.view(4, 16).T.argmax(-1),
    "mean": lambda x: x.view(4, 16).T.mean(-1),
    "sort": lambda x: x.sort().values,
    "topk": lambda x: x.topk(5).values,
    "least": lambda x: x.topk(50, largest=False).values,
}


class Each(nn.Module):
    """All operators of one tensor."""

    def forward(self, x):
        return tuple(operator(x) for operator in OPERATORS.values())


@pytest.fixture(scope="module")
def computed() -> dict[str, torch.Tensor]:
    artifact = tvm_sched.compile(Each(), torch.linspace(-2, 2, len(NUMBERS)), threads=1)
    return dict(zip(OPERATORS, artifact(NUMBERS), strict=True))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_propagate_as_in_pytorch(computed, name):
    torch.testing.assert_close(computed[name], OPERATORS[name](NUMBERS), rtol=1e-5, atol=1e-6, equal_nan=True)


POOLS = {
    "windows that overlap": nn.MaxPool2d(3, 2, 1),
    "windows apart": nn.MaxPool2d(2),
    "the whole": nn.AdaptiveMaxPool2d(1),
    "means": nn.AvgPool2d(2),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_propagate_as_in_pytorch(name):
    x = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    x[0, 3, 5, 5], x[0, 5, 2, 2], x[0, 4, 6:, 6:] = math.nan, math.inf, -math.inf
    artifact = tvm_sched.compile(POOLS[name], torch.zeros_like(x), threads=1, check=False)
    torch.testing.assert_close(artifact(x), POOLS[name](x), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    "target, one, others",
    [("cortex-a76", "fmax\t", ("fmaxnm", "fcmgt")), ("x86-avx2", "vmaxps\t", ("vcmp", "vblendv"))],
)
@pytest.mark.parametrize("module", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1, 2), nn.Hardswish()], ids=repr)
def test_a_bound_is_one_instruction(module, target, one, others, tmp_path):
    tvm_sched.compile(module, torch.zeros(1, 64), target=target, threads=1, dump=tmp_path, check=False)
    assembly = sorted(tmp_path.iterdir())[-1].read_text()
    assert one in assembly and not any(word in assembly for word in others)
