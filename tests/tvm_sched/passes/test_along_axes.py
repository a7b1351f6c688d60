"""Operators along axes stay channels last between two convolutions: right, and without a permutation around them."""

import numpy as np
import pytest
import torch
from relax_run import expect_equal, imported, operators
from torch import nn
from torch.nn import functional

from tvm_sched.passes.graph.channels_last import channels_last


class Between(nn.Module):
    """A function of an image between two convolutions."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.one, self.two = function, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.function(self.one(x))
        return self.two(y) if y.shape[1] == 8 else y


ROWS = torch.tensor([0, 0, 1, 3, 2, 6, 6, 5])
FORMS = {
    "rows": lambda y: y.index_select(2, ROWS),
    "columns": lambda y: y.index_select(3, ROWS[:3]),
    "channels": lambda y: y.index_select(1, ROWS.flip(0)),
    "flip": lambda y: y.flip(3),
    "softmax": lambda y: y.softmax(1),
    "slice": lambda y: y[:, :, 1::2, 2:],
    "last channels": lambda y: torch.cat([y[:, 4:], y[:, :4]], 1),
    "padding": lambda y: functional.pad(y, (1, 2, 3, 0), value=0.5),
    "mean of channels": lambda y: y * y.mean(1, keepdim=True),
    "mean of rows": lambda y: y - y.mean(2, keepdim=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_between_convolutions(form):
    network, x = Between(FORMS[form]), torch.randn(2, 3, 7, 9)
    mod = channels_last(imported(network, x))
    assert operators(mod).count("permute_dims") == 2  # of the input and of the output
    expect_equal(mod, network, x)


def test_channels_that_are_taken_away():
    """An empty piece is moved as others are."""
    network, x = Between(lambda y: torch.cat([y[:, :0], y], 1)), torch.randn(1, 3, 5, 4)
    expect_equal(channels_last(imported(network, x)), network, x)
    network = Between(lambda y: torch.cat([y[:, :1, :, :0], y[:, :1]], 3))
    expect_equal(channels_last(imported(network, x)), network, x)


def bilinear(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """(first pixel, weight of the next) of each output pixel, as PyTorch has them without align_corners."""
    at = np.maximum((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0)
    return np.floor(at).astype(int), (at - np.floor(at)).astype("float32")


@pytest.mark.parametrize("size", [(14, 18), (5, 23), (7, 4)])
def test_resizing_as_gathers(size):
    """Bilinear, an axis at a time."""

    def along(y, axis, length):
        first, weight = map(torch.from_numpy, bilinear(y.shape[axis], length))
        weight = weight.reshape(-1, *[1] * (3 - axis))
        after = (first + 1).clamp(max=y.shape[axis] - 1)
        return y.index_select(axis, first) * (1 - weight) + y.index_select(axis, after) * weight

    network, x = Between(lambda y: along(along(y, 2, size[0]), 3, size[1])), torch.randn(1, 3, 7, 9)
    mod = channels_last(imported(network, x))
    assert operators(mod).count("permute_dims") == 2
    expect_equal(mod, network, x)
    expected = functional.interpolate(network.one(x), size, mode="bilinear")
    torch.testing.assert_close(network.function(network.one(x)), expected, rtol=1e-4, atol=1e-5)
