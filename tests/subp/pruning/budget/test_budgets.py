"""Budgets of multiply-accumulates and weights; the paper's presets."""

import pytest
import torch
from torch import nn

from subp import Sparsifier, models
from subp.pruning import summary
from subp.pruning.budget.allocation import equal
from subp.pruning.budget.budgets import Budget, Share, parse
from subp.pruning.budget.macs import count_macs
from subp.pruning.selection import all_places, select_layers
from subp.training.presets import INPUT_SHAPE, PRESETS
from subp_contract.errors import UserError


def cost(sparsity, dense, shares):
    pruned = [min(int(sparsity * c + 1e-6), c - 1) for _, c in shares]
    return dense + sum(macs * (c - p) / c for (macs, c), p in zip(shares, pruned, strict=True))


@pytest.mark.parametrize("target", [1.0, 0.9, 0.5, 0.31, 0.2, 4321.0])
def test_the_least_sparsity_that_meets_the_budget_is_found(target):
    dense, shares = 500, [(3000, 16), (2500, 24), (4000, 7)]
    limit = target * 10_000 if target <= 1 else target
    found = max(Budget(limit, [Share(*share) for share in shares], dense, "multiply-accumulates").sparsities(equal(3)))
    steps = sorted({j / c for _, c in shares for j in range(c)})
    assert found == pytest.approx(next(p for p in steps if cost(p, dense, shares) <= limit), abs=1e-9)


def test_a_budget_below_what_stays_dense_is_refused():
    with pytest.raises(UserError, match=r"0.0 million weights cannot be reached"):
        Budget(15, [Share(1000, 10)], 500, "weights")


@pytest.mark.parametrize(
    "text, value",
    [
        ("0.25", 0.25),
        ("1.03G", 1.03e9),
        ("279m", 279e6),
        (" 12 K", 12e3),
        (".5", 0.5),
        *((bad, None) for bad in ("1e9", "-1", "0", "")),
    ],
)
def test_budgets_are_read_as_written(text, value):
    if value is None:
        with pytest.raises(UserError, match="is no budget"):
            parse(text)
    else:
        assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "method, n", [("subp", 16), ("subp", 8), ("nonuniform", 16), ("filter", 16), ("magnitude", 16)]
)
@pytest.mark.parametrize("target", [0.3, 15e6])
def test_a_network_ends_within_its_budget_of_multiply_accumulates(method, n, target):
    model = models.create("resnet20", 10)
    sparsifier = Sparsifier(
        model, n=n, method=method, target_macs=target, input_shape=(3, 32, 32), epochs=1, start=0, end=0
    )
    sparsifier.step(0)
    densities = {row.name: row.density for row in sparsifier.summary()}
    rows = summary.inspect(models.create("resnet20", 10), (3, 32, 32))
    total, kept = sum(row.macs for row in rows), sum(row.macs * densities[row.name] for row in rows)
    limit = target * total if target <= 1 else target
    assert 0.97 * limit < kept <= limit * (1 + 1e-9)


def test_a_budget_of_weights_counts_those_of_every_layer():
    model = models.create("resnet20", 10)
    sparsifier = Sparsifier(model, target_weights=0.25, epochs=1)
    sparsifier.step(0)
    weights = [p for p in models.create("resnet20", 10).parameters() if p.ndim > 1]
    kept = sum(int((layer.weight != 0).sum()) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    total = sum(p.numel() for p in weights)
    assert 0.22 * total < kept <= 0.25 * total


@pytest.mark.parametrize("name, preset", PRESETS.items())
@pytest.mark.parametrize("n", [16, 32])
def test_presets_have_the_papers_multiply_accumulates(name, preset, n):
    """1.03 G and 279 M to 0.25 %; 2.0 and 1.0 G as the paper rounds them."""
    with torch.device("meta"):
        model = models.create(preset.model, 1000)
    macs = count_macs(model, all_places(model), INPUT_SHAPE)
    total = sum(macs.values())
    for layer_name, (layer, _) in select_layers(model, n, preset.exclude)[0].items():
        channels = layer.weight.shape[1]
        total -= macs[layer_name] * int(preset.sparsity * channels) / channels
    if name in ("resnet18-1.03g", "mobilenetv1-279m"):
        assert total == pytest.approx(preset.macs, rel=0.0025)
    else:
        assert round(total / 1e9, 1) == preset.macs / 1e9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sparsity": 0.5, "target_macs": 0.3}, "exclude each other"),
        ({"target_macs": 0.3}, "target_macs needs an input_shape"),
        ({"target_macs": 0.001, "input_shape": (3, 32, 32)}, "cannot be reached"),
        ({"target_weights": -1.0}, "a target of -1.0 weights is not above 0"),
    ],
)
def test_budgets_that_cannot_be_are_refused_before_the_model_is_touched(options, message):
    model = models.create("resnet20", 10)
    with pytest.raises(UserError, match=message):
        Sparsifier(model, epochs=1, **options)
    assert type(model.layer1[0].conv1) is nn.Conv2d
