"""Batch norms go into convolutions, or become a multiplication and an addition; the network computes the same."""

import numpy as np
import pytest
import torch
from relax_run import expect_equal, imported, operators, run
from torch import nn
from tvm import relax
from zeros import calibrate, keep_blocks

from tvm_sched.passes.graph.fold_batch_norm import fold_batch_norm
from tvm_sched.passes.graph.relax_tools import as_array


def folded(network, *shape):
    """(folded module, network, input): batch norms with statistics of their own."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    calibrate(network, x)
    return fold_batch_norm(imported(network, x)), network, x


def conv_weights(mod):
    values = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    return [as_array(v.args[1]) for v in values if isinstance(v, relax.Call) and v.op.name == "relax.nn.conv2d"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_folds_into_a_convolution(bias, groups, eps):
    mod, network, x = folded(
        nn.Sequential(nn.Conv2d(4, 8, 3, bias=bias, groups=groups), nn.BatchNorm2d(8, eps=eps)), 2, 4, 6, 6
    )
    assert operators(mod) == ["nn.conv2d", "add"]
    expect_equal(mod, network, x)


def test_folds_every_norm_of_a_chain():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1, bias=True),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
    )
    mod, network, x = folded(network, 2, 3, 6, 6)
    assert operators(mod) == ["nn.conv2d", "add", "nn.relu", "nn.conv2d", "add", "nn.conv2d", "add"]
    expect_equal(mod, network, x)


def test_folds_into_a_convolution_along_one_axis():
    mod, network, x = folded(nn.Sequential(nn.Conv1d(4, 8, 3, bias=True, groups=2), nn.BatchNorm1d(8)), 2, 4, 9)
    assert operators(mod) == ["nn.conv1d", "add"]
    expect_equal(mod, network, x)


def test_without_affine_terms():
    mod, network, x = folded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), 2, 3, 6, 6)
    assert operators(mod) == ["nn.conv2d", "add"]
    expect_equal(mod, network, x)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1)), (2, 4, 5, 5)),  # DenseNet's order
        (nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)), (2, 4, 5, 5)),
        (nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4)), (2, 4, 6, 6)),
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), (5, 6)),
    ],
    ids=["before", "after relu", "after pool", "after linear"],
)
def test_becomes_a_multiplication_and_an_addition_after_anything_else(network, shape):
    mod, network, x = folded(network, *shape)
    assert "nn.batch_norm" not in operators(mod)
    assert "multiply" in operators(mod)
    expect_equal(mod, network, x)


class Residual(nn.Module):
    """bn(conv(x) + x): the addition is no bias."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x) + x)


class Constant(Residual):
    """bn(conv(x) + c), c a number an image position: as large as a bias where the image has as many as channels."""

    def forward(self, x):
        return self.bn(self.conv(x) + torch.linspace(-1, 1, 4))


class UsedTwice(Residual):
    """The convolution's output is used without the norm too."""

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


@pytest.mark.parametrize("network", [Residual(), Constant(), UsedTwice()], ids=lambda network: type(network).__name__)
def test_only_a_bias_between_convolution_and_norm_is_folded(network):
    mod, network, x = folded(network, 2, 4, 3, 4)
    assert "nn.batch_norm" not in operators(mod)
    expect_equal(mod, network, x)


def test_a_shared_convolution_is_folded_for_each_norm():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.b(self.conv(self.a(self.conv(x))))

    mod, network, x = folded(Shared(), 2, 4, 5, 5)
    expect_equal(mod, network, x)


def test_blocks_of_zeros_stay_zero():
    network = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32))
    pruned = keep_blocks(network[0].weight.detach().numpy(), 16, 3)
    network[0].weight.data = torch.from_numpy(pruned)
    mod, network, x = folded(network, 2, 16, 5, 5)
    (weight,) = conv_weights(mod)
    assert np.array_equal(weight != 0, pruned != 0)
    expect_equal(mod, network, x)


def test_a_network_without_norms_is_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    x = torch.randn(1, 3, 4, 4)
    before = imported(network, x)
    after = fold_batch_norm(before)
    assert operators(after) == operators(before)
    assert np.array_equal(run(after, x), run(before, x))


class Shared(nn.Module):
    """A convolution that two norms read, or a norm and the output."""

    def __init__(self, bias, norms):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=bias)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(norms))

    def forward(self, x):
        x = self.conv(x)
        return sum((norm(x) for norm in self.norms), x if len(self.norms) == 1 else torch.zeros(()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norms", [1, 2])
def test_a_convolution_that_others_read_too_is_computed_once(bias, norms):
    mod, network, x = folded(Shared(bias, norms), 2, 3, 6, 6)
    assert operators(mod).count("nn.conv2d") == 1
    assert operators(mod).count("multiply") == norms
    expect_equal(mod, network, x)
