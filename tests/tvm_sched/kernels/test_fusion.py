"""What stands behind and beside a kernel in its fused function: each kernel with operands of its epilogue that are
computed in the same function.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import tvm_sched


class Layered(nn.Module):
    """A function of an input and a layer."""

    def __init__(self, function, layer):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x):
        return self.function(x, self.layer)


LAYERS = {
    "linear": (lambda: nn.Linear(16, 16), (3, 16)),
    "product of a stack": (lambda: nn.Linear(16, 16), (2, 3, 16)),
    "3x3": (lambda: nn.Conv2d(16, 16, 3, padding=1), (1, 16, 9, 11)),
    "winograd": (lambda: nn.Conv2d(64, 64, 3, padding=1), (1, 64, 14, 14)),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), (1, 16, 9, 11)),
    "one channel": (lambda: nn.Conv2d(1, 16, 3, padding=1), (1, 1, 9, 11)),
}
FORMS = {
    "scaled": lambda x, layer: x * 0.5 + layer(x),
    "beta and alpha": lambda x, layer: 2 * layer(x) + 0.5 * x,
    "activated": lambda x, layer: functional.gelu(x) * layer(x) + x.tanh(),
    "mirrored": lambda x, layer: x.flip(-1) + layer(x),
    "chosen": lambda x, layer: torch.where(x > 0, x * 2, layer(x)),
    "pooled": lambda x, layer: x.softmax(-1) * layer(x) + x.mean(-1, keepdim=True),
    "slid": lambda x, layer: x.roll(1, -1) * 3 - layer(x),
}


class Side(nn.ModuleList):
    """The results of all modules, of the same input."""

    def forward(self, x):
        return tuple(module(x) for module in self)


@pytest.mark.parametrize("layer", LAYERS)
def test_operands_that_the_function_computes_itself(layer):
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    network, x = Side(Layered(form, make()) for form in FORMS.values()).eval(), torch.randn(shape)
    artifact = tvm_sched.compile(network, x, threads=1)
    for form, made, wanted in zip(FORMS, artifact(x.numpy()), network(x), strict=True):
        np.testing.assert_allclose(made, wanted.detach().numpy(), rtol=1e-4, atol=2e-5, err_msg=form)


@pytest.mark.parametrize("beta, alpha", [(0.5, 2.0), (0, 1), (1, -1)])
def test_sums_of_products(beta, alpha):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            y = torch.addmm(x, x, self.weight, beta=beta, alpha=alpha)
            return torch.baddbmm(y[None], y[None], x[None].transpose(1, 2), beta=beta, alpha=alpha)

    torch.manual_seed(0)
    network, x = Sums().eval(), torch.randn(16, 16)
    made = tvm_sched.compile(network, x, threads=1)(x.numpy())
    np.testing.assert_allclose(made, network(x).detach().numpy(), rtol=1e-4, atol=1e-3)
