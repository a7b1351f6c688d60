"""Grouping, HRBP's steps, and their groups folded into the order of the filters; one-shot 1xN."""

import itertools

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning import masking
from subp.pruning.channels.grouping import balanced_groups
from subp.pruning.methods.every_epoch import hrbp
from subp.pruning.methods.once import one_by_n
from subp_contract.errors import UserError


def overlap(features, order, n):
    """What pairs of items in one group have in common, of all groups together."""
    pairs = [(i, j) for group in order.reshape(-1, n).tolist() for i, j in itertools.combinations(group, 2)]
    return int((features @ features.T)[tuple(zip(*pairs, strict=True))].sum())


def test_groups_are_the_best_of_all_where_all_can_be_looked_at():
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        features = (torch.rand(6, 12, generator=draws) < 0.4).float()
        best = max(overlap(features, torch.tensor(order), 3) for order in itertools.permutations(range(6)))
        found = balanced_groups(features, 3)
        assert sorted(found.tolist()) == list(range(6)) and overlap(features, found, 3) >= 0.95 * best


def test_hidden_groups_are_found_among_noise():
    draws = torch.Generator().manual_seed(1)
    hidden = (torch.rand(8, 64, generator=draws) < 0.3).float().repeat_interleave(8, 0)
    noisy = torch.where(torch.rand(64, 64, generator=draws) < 0.03, 1 - hidden, hidden)
    shuffled = torch.randperm(64, generator=draws)
    found = shuffled[balanced_groups(noisy[shuffled], 8)] // 8
    assert (found.reshape(8, 8) == found.reshape(8, 8)[:, :1]).all()


def test_no_swap_of_two_items_gains_anything_any_more():
    draws = torch.Generator().manual_seed(2)
    features = (torch.rand(40, 30, generator=draws) < torch.rand(40, 1, generator=draws)).float()
    found = balanced_groups(features, 5)
    assert torch.equal(found, balanced_groups(features.bool(), 5))
    for i, j in itertools.combinations(range(40), 2):
        swapped = found.clone()
        swapped[[i, j]] = swapped[[j, i]]
        assert overlap(features, swapped, 5) <= overlap(features, found, 5)


def test_a_group_keeps_the_channels_that_most_of_its_filters_keep():
    weight = torch.zeros(4, 4, 1, 1)
    weight[0, [0, 1]], weight[2, [0, 1]] = 5.0, 5.0  # one group by its kernels, as 1 and 3 are
    weight[1, [2, 3]], weight[3, [1, 3]] = 6.0, 7.0
    mask = hrbp.step(weight, torch.tensor([0, 2, 1, 3]), 2, 0.5, patterns=False)
    assert mask.int().tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]]


def test_patterns_are_shared_by_the_kernels_of_a_block_and_columns_uniform():
    torch.manual_seed(0)
    weight, order = torch.randn(8, 6, 3, 3), torch.randperm(8)
    mask = hrbp.step(weight, order, 4, 0.75, patterns=True)
    grouped = mask[order].reshape(2, 4, 6, 3, 3)
    assert (grouped == grouped[:, :1]).all()
    assert grouped[:, 0].flatten(1).sum(1).tolist() == [54 - 40] * 2


def test_one_shot_keeps_the_best_blocks_of_the_layer_or_of_each_group():
    scores = torch.tensor([[9.0, 8.0, 7.0, 1.0], [6.0, 2.0, 3.0, 4.0]])
    assert one_by_n.step(scores, 0.5, uniform=False).int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert one_by_n.step(scores, 0.5, uniform=True).int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 1]]


class Residual(nn.Module):
    """Two convolutions whose outputs are added, one whose outputs it alone makes, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.Conv2d(24, 16, 3, padding=1),
        )
        self.norm, self.down, self.fc = nn.BatchNorm2d(24), nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((self.b(self.norm(self.a(x)).relu()) + self.down(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("method", ["hrbp", "hrbp++"])
def test_folding_puts_the_groups_side_by_side_and_changes_no_output(method):
    torch.manual_seed(0)
    model = Residual().eval()
    sparsifier = Sparsifier(model, n=8, sparsity=0.75, method=method, epochs=3, input_shape=(3, 8, 8))
    for epoch in range(3):
        sparsifier.step(epoch)
    assert sparsifier.density == pytest.approx(0.25, abs=0.01)
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    torch.testing.assert_close(sparsifier.fold()(x), before, rtol=1e-5, atol=1e-5)
    for name in ("a", "b", "down"):
        weight = model.get_submodule(name).weight
        grouped = (weight != 0).reshape(-1, 8, weight.shape[1], weight[0, 0].numel())
        assert (grouped == grouped[:, :1]).all()
        if method == "hrbp":
            assert grouped.any((1, 3)).float().mean() == 0.25


def test_a_copy_with_other_weights_is_folded_by_the_same_groups():
    torch.manual_seed(0)
    model, other = Residual().eval(), Residual().eval()
    options = {"n": 8, "method": "hrbp", "epochs": 2, "input_shape": (3, 8, 8)}
    sparsifier, twin = Sparsifier(model, **options), Sparsifier(other, **options)
    sparsifier.step(1)
    twin.load_state_dict(sparsifier.state_dict())
    x = torch.randn(2, 3, 8, 8)
    before = other(x)
    torch.testing.assert_close(sparsifier.fold(other)(x), before, rtol=1e-5, atol=1e-5)
    sparsifier.fold()
    assert torch.equal(model.a.weight != 0, other.a.weight != 0) and not masking.masked_weights(other.a)


def test_filters_are_rearranged_before_the_masks_are_put_on():
    def retained(rearrange):
        torch.manual_seed(0)
        model = Residual().eval()
        with torch.no_grad():
            model.a.weight *= torch.rand(24, 1, 1, 1) ** 3  # strong and weak filters side by side
        dense = model.a.weight.detach().abs().sum()
        sparsifier = Sparsifier(model, n=8, method="one-by-n", epochs=1, rearrange=rearrange, input_shape=(3, 8, 8))
        sparsifier.step(0)
        return float(model.a.weight.detach().abs().sum() / dense), sparsifier.rearranged

    (without, none), (with_, rows) = retained(False), retained(True)
    assert with_ > 1.1 * without and not none
    assert {row.weight: row.reason for row in rows}["fc.weight"] == "these are the network's outputs"


@pytest.mark.parametrize(
    "options, told", [({"method": "hrbp"}, "hrbp needs an input_shape"), ({"rearrange": True}, "rearrange needs")]
)
def test_an_input_shape_is_asked_for(options, told):
    with pytest.raises(UserError, match=told):
        Sparsifier(Residual(), n=8, epochs=2, **options)
