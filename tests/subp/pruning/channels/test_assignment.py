"""Filters dealt out so that groups keep most: never less than sorted ones, and the network computes what it did."""

import itertools

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning.channels import assignment, rearrange
from subp.pruning.masking import weight_of
from subp_contract.errors import UserError

N, SPARSITY = 4, 0.75


class Residual(nn.Module):
    """Two layers that make the same channels, one by itself, and one whose channels do not fill groups of N."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d, self.fc = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.a(x) + self.b(x)
        return self.fc(self.d(self.c(x).relu()).relu().mean((2, 3)))


def network():
    torch.manual_seed(0)
    return Residual().eval()


def kept(weight, n=N):
    """L1 norm that uniform masks keep of a weight whose order is as it is: summed block by block."""
    blocks = weight.detach().abs().flatten(2).sum(2).reshape(-1, n, weight.shape[1]).sum(1)
    return blocks.sort(1, descending=True).values[:, : weight.shape[1] - int(SPARSITY * weight.shape[1])].sum().item()


def arranged(by):
    model = network()
    sparsifier = Sparsifier(
        model, n=N, sparsity=SPARSITY, method="one-by-n-uniform", epochs=1, rearrange=by is not None,
        arrange_by=by or "norm", input_shape=(3, 8, 8),
    )  # fmt: skip
    return model, sparsifier


def test_groups_that_are_hidden_in_a_layer_are_found():
    draws = torch.Generator().manual_seed(3)
    norms = torch.rand(6, 4, generator=draws)
    start = norms.sum(1).argsort(descending=True)
    order = assignment.assigned([norms], [1], 2, start)
    values = [assignment.kept_norm([norms], [1], 2, torch.tensor(each)) for each in itertools.permutations(range(6))]
    by_hand = sum(max(norms[pair].sum(0)) for pair in order.reshape(3, 2))
    assert assignment.kept_norm([norms], [1], 2, order) == pytest.approx(float(by_hand))
    assert assignment.kept_norm([norms], [1], 2, start) < by_hand <= max(values) + 1e-6  # of all orders there are
    planted = torch.eye(4).repeat_interleave(3, 0)[torch.randperm(12, generator=draws)]  # three outputs an input
    order = assignment.assigned([planted], [1], 3, torch.arange(12))
    assert planted[order].reshape(4, 3, 4).sum(1).amax(1).tolist() == [3, 3, 3, 3]


def test_outputs_stay_and_groups_keep_no_less_than_sorted_ones():
    plain, (by_norm, _), (dealt, sparsifier) = network(), arranged("norm"), arranged("assignment")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for model in (by_norm, dealt):  # everything is kept until the first step
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)
    assert {row.weight for row in sparsifier.rearranged if row.free} == {
        f"{name}.weight" for name in ("stem", "a", "b", "c", "d")
    }
    norms = [{name: kept(weight_of(model.get_submodule(name))) for name in "abcd"} for model in (by_norm, dealt)]
    means = {name: weight_of(plain.get_submodule(name)).abs().mean().item() for name in "ab"}
    assert sum(norms[1][name] / means[name] for name in "ab") > sum(norms[0][name] / means[name] for name in "ab")
    assert all(norms[1][name] >= norms[0][name] * (1 - 1e-6) for name in "cd") and norms[1]["c"] > norms[0]["c"]
    sparsifier.step(0)
    mask = sparsifier.masks["c"]
    assert (weight_of(dealt.c).abs().sum().item()) == pytest.approx(norms[1]["c"], rel=1e-5)
    assert mask.sum(1).tolist() == [4] * 6


def test_every_dealing_out_keeps_at_least_what_it_began_with():
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        norms, few = torch.rand(32, 20, generator=draws), torch.rand(32, 9, generator=draws)
        start = torch.randperm(32, generator=draws)
        order = assignment.assigned([norms, few], [5, 2], 8, start)
        assert order.sort().values.tolist() == list(range(32))
        before, after = (assignment.kept_norm([norms, few], [5, 2], 8, each) for each in (start, order))
        assert after > before
        assert (
            assignment.kept_norm([norms, few], [5, 2], 8, assignment.assigned([norms, few], [5, 2], 8, order)) >= after
        )


def test_another_order_is_told():
    with pytest.raises(UserError, match="there is no arrange_by 'luck': choose from norm, assignment"):
        Sparsifier(network(), n=N, epochs=1, rearrange=True, arrange_by="luck", input_shape=(3, 8, 8))


def test_channels_that_fill_no_whole_groups_are_sorted():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(6, 2))
    channels = rearrange.find(model, torch.zeros(1, 3, 1, 1))
    weights = {"2.weight": (4, 0.5)}
    dealt, by_norm = (make(channels, model, weights) for make in (assignment.by_kept_norm, rearrange.by_l1_norm))
    assert all(map(torch.equal, dealt, by_norm))
