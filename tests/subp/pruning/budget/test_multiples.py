"""Counts of kept blocks at multiples: every group of every method that has groups, within the same budget."""

import pytest
import torch
from torch import nn

from subp import Sparsifier, models
from subp.pruning.budget.budgets import Budget, Share
from subp.pruning.budget.macs import count_macs
from subp.pruning.masking import weight_of
from subp.pruning.methods import METHODS
from subp.pruning.methods.ranking import in_multiples
from subp.pruning.schedules import pruned_count
from subp.pruning.selection import all_places
from subp.training.presets import INPUT_SHAPE, PRESETS
from subp_contract.errors import UserError

METHODS_WITH_GROUPS = ["subp", "nonuniform", "random", "one-by-n", "one-by-n-uniform", "hrbp"]
LIKE_SUBP = [
    "subp-gradient",
    "rigl",
    "ac-dc",
    "sr-ste-block",
    "st-3",
]  # they too keep what the layer's sparsity says in a group
IMAGE = (3, 12, 12)


def network():
    """Layers of 3 (fewer than four), 24, 40, 18 (no multiple of four), 6 a group and 64 input channels."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3), nn.Conv2d(24, 40, 1), nn.Conv2d(40, 16, 1), nn.Conv2d(16, 48, 3)]
    layers += [nn.Conv2d(48, 72, 1), nn.Conv2d(72, 64, 1, groups=4), nn.Conv2d(64, 32, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def pruned(method, **options):
    """(sparsifier, layer -> kept blocks of each group) after the last epoch's step."""
    model = network()
    sparsifier = Sparsifier(model, n=8, method=method, epochs=3, input_shape=IMAGE, include=("0",), **options)
    for epoch in range(3):
        sparsifier.step(epoch)
    return sparsifier, {name: mask.sum(1) for name, mask in sparsifier.masks.items()}


MODEL = network()
COSTS = count_macs(MODEL, all_places(MODEL), IMAGE)
FEWEST = {"0": 1 / 3, "1": 4 / 24, "2": 4 / 40, "3": 4 / 16, "4": 4 / 48, "5": 4 / 18, "6": 4 / 64}  # else dense
LEAST = sum(cost * FEWEST.get(name, 1) for name, cost in COSTS.items())


def macs(sparsifier):
    """Multiply-accumulates of the kept blocks, and of the layers that stay dense."""
    kept = {name: mask.double().mean().item() for name, mask in sparsifier.masks.items()}
    return sum(cost * kept.get(name, 1.0) for name, cost in COSTS.items())


BUDGETS = [
    *({"sparsity": sparsity} for sparsity in (0.3, 0.5, 0.75, 0.9)),
    {"target_macs": 0.4},
    {"target_weights": 0.35},
    {"sparsity": 0.6, "allocation": "erk"},
    {"target_macs": 0.5, "allocation": "global"},
]
CASES = [(method, budget) for method in METHODS_WITH_GROUPS for budget in BUDGETS[: 2 if method == "hrbp" else None]]
CASES += [(method, BUDGETS[2]) for method in LIKE_SUBP]


@pytest.mark.parametrize("method, budget", CASES, ids=str)
def test_every_group_keeps_a_multiple_of_four_and_the_budget_holds(method, budget):
    free, _ = pruned(method, **budget)
    sparsifier, counts = pruned(method, multiple=4, **budget)
    for name, kept in counts.items():
        mask = sparsifier.masks[name]
        assert mask.shape[1] < 4 or mask.all() or (kept % 4 == 0).all(), (name, kept)
        if method not in ("nonuniform", "one-by-n"):
            assert (kept == kept[0]).all() and kept[0] > 0
    total, cost = sum(COSTS.values()), macs(sparsifier)
    if "target_macs" in budget:
        assert 0.85 * budget["target_macs"] * total < cost <= budget["target_macs"] * total * (1 + 1e-9)
    elif budget.keys() == {"sparsity"}:  # no more than without multiples, or than four blocks a group need
        assert 0.85 * macs(free) < cost <= max(macs(free), LEAST) * (1 + 1e-9)


def test_layers_are_rounded_by_largest_remainders_within_the_budget():
    shares = [Share(2400, 24, 1, 4), Share(4000, 40, 1, 4), Share(3600, 18, 1, 4), Share(300, 3)]
    wanted = [6, 10, 7, 1]  # remainders 2, 2, 3 of four, none
    sparsities = [1 - count / share.candidates for count, share in zip(wanted, shares, strict=True)]
    limit = sum(share.cost / share.candidates * count for count, share in zip(wanted, shares, strict=True))  # 3100
    budget = Budget(limit, shares, 0, "weights")
    kept = [round((1 - p) * share.candidates) for p, share in zip(budget.in_multiples(sparsities), shares, strict=True)]
    # Down: 4, 8, 4, 1 cost 2100. The third first: 2900; then 200 are left, and one multiple more of the others is 400.
    assert kept == [4, 8, 8, 1]


def test_what_multiples_need_at_least_is_part_of_the_budget():
    shares = [Share(1600, 16, 1, 4), Share(6400, 64, 1, 4)]
    with pytest.raises(UserError, match=r"cannot be reached"):
        Budget(799, shares, 0, "weights")
    assert Budget(800, shares, 0, "weights").cost([1.0, 1.0]) == 800


@pytest.mark.parametrize("name", PRESETS)
def test_presets_stay_at_their_budgets(name):
    preset = PRESETS[name]
    with torch.device("meta"):
        model = models.create(preset.model, 1000)
    costs, channels = count_macs(model, all_places(model), INPUT_SHAPE), channels_of(model)
    options = {"sparsity": preset.sparsity, "exclude": preset.exclude, "input_shape": INPUT_SHAPE, "epochs": 1}
    sparsities = Sparsifier(model, multiple=4, **options).sparsities
    kept = {layer: channels[layer] - pruned_count(sparsity, channels[layer]) for layer, sparsity in sparsities.items()}
    assert all(count % 4 == 0 for count in kept.values())
    total, exact = (
        sum(cost * counts.get(layer, channels[layer]) / channels[layer] for layer, cost in costs.items())
        for counts in (kept, {name: channels[name] - int(preset.sparsity * channels[name]) for name in kept})
    )
    assert 0.995 * exact < total <= exact * (1 + 1e-9)


def channels_of(model):
    """Layer -> its input channels, of a group."""
    return {name: weight_of(*place).shape[1] for name, place in all_places(model).items()}


def test_groups_of_a_ranked_layer_keep_their_best_and_the_layer_its_count():
    scores = torch.rand(6, 24, generator=torch.Generator().manual_seed(0))
    scores[0] += 1  # nearly all of the first group, hardly any of the others
    threshold = scores.flatten().sort(descending=True).values[36 - 1]
    mask = in_multiples(scores >= threshold, scores, 4)
    assert mask.sum() == 36 and (mask.sum(1) % 4 == 0).all()
    for row, kept in zip(scores, mask, strict=True):
        assert not kept.any() or kept.all() or row[kept].min() > row[~kept].max()


def test_groups_that_are_full_leave_their_rest_to_others():
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0], mask[1, :3], mask[2, :3] = True, True, True  # 6 of which four can stay, 3 and 3
    assert in_multiples(mask, torch.rand(3, 6), 4).sum(1).tolist() == [4, 4, 4]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {*METHODS_WITH_GROUPS, *LIKE_SUBP}))
def test_methods_without_groups_of_blocks_refuse(method):
    with pytest.raises(UserError, match=f"{method.replace('+', '.')} has no groups of blocks"):
        Sparsifier(network(), method=method, sparsity=0.5, multiple=4, epochs=1, input_shape=IMAGE)
