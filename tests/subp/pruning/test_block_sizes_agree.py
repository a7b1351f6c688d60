"""`subp inspect` and `subp compile` find the same blocks in the same weights."""

import pytest
import torch

from subp.pruning import summary
from subp_contract import pattern


def pruned(kept_of_4: int, inputs: int = 32) -> torch.Tensor:
    """A weight [64, inputs, 3, 3] in blocks of 16, of which a group keeps `kept_of_4` quarters."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.rand(64, inputs, 3, 3, generator=draws) + 0.5
    for group in weight.split(16):
        group[:, torch.randperm(inputs, generator=draws)[inputs * kept_of_4 // 4 :]] = 0
    return weight


def with_dead_filter() -> torch.Tensor:
    weight = pruned(1)
    weight[5] = 0
    return weight


@pytest.mark.parametrize(
    "weight, groups, n",
    [(pruned(1), 1, 16), (with_dead_filter(), 1, 16), (pruned(2), 4, 16), (pruned(4), 1, None)],
    ids=["pruned", "dead filter", "grouped", "dense"],
)
def test_both_find_the_same_blocks(weight, groups, n):
    found = pattern.find(pattern.occupancy(weight.numpy(), groups))
    assert summary.layer_summary("layer", "Conv2d", weight, groups, None).n == (found and found.n) == n
