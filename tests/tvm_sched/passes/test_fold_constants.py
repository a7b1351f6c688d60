"""What is computed before anything runs, against PyTorch."""

import pytest
import torch
from relax_run import expect_equal, imported, operators
from torch import nn
from tvm import relax


class Indexed(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        return (x + 1)[self.index]


@pytest.mark.parametrize(
    "index",
    [-1, (slice(None), -1), (slice(None), slice(None), -2), (slice(None), [0, -1, -3]), ([0, 1, 1], [1, -2, 0])],
    ids=str,
)
def test_positions_that_count_from_the_end(index):
    network, x = Indexed(index), torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    expect_equal(imported(network, x), network, x, atol=0)


class Filled(nn.Module):
    """Sums of numbers that no input decides, and of a pool, whose import has positions of maxima, all of them zero."""

    def forward(self, x):
        return nn.functional.max_pool2d(x, 2) + torch.ones(4, 2) + torch.zeros(2) + torch.full((2,), 0.5)


def test_a_network_whose_constants_numpy_folds_is_not_lowered_for_it(monkeypatch):
    monkeypatch.setattr(relax.transform, "FoldConstant", lambda: pytest.fail("every operator is lowered in vain"))
    network, x = Filled(), torch.randn(1, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    expect_equal(imported(network, x), network, x, atol=0)
    assert operators(imported(network, x)) == ["nn.max_pool2d", "add", "add", "add"]


def test_what_numpy_does_not_fold_is_left_to_tvm():
    class Sines(nn.Module):
        def forward(self, x):
            return x + torch.arange(4.0).sin()

    network, x = Sines(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert operators(imported(network, x)) == ["add"]
    expect_equal(imported(network, x), network, x, atol=1e-6)
