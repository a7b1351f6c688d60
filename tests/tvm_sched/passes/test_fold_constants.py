"""What is computed before anything runs, against PyTorch."""

import pytest
import torch
from relax_run import expect_equal, imported
from torch import nn


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
