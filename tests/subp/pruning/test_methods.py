"""Each method's masks against its definition, on weights small enough to go through one by one."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning.masking import trained_weight
from subp.pruning.methods import METHODS, Hyperparameters, hyperparameter, ranking, register
from subp.pruning.methods.every_epoch import filters, magnitude, nonuniform, subp
from subp.pruning.methods.every_forward import sr_ste
from subp.pruning.methods.once import random_uniform
from subp.training.config import Config
from subp_contract.errors import UserError

CONVOLUTION, HIDDEN = "1", "3"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(*shape, generator=generator())


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5)
    )


def train_step(model):
    model(randn(2, 3, 6, 6)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
                parameter.grad = None


def test_magnitude_keeps_the_largest_weights_of_the_layer():
    weight = randn(6, 5, 3, 3)
    mask = magnitude.step(weight, 0.7)
    kept, pruned = weight[mask].abs(), weight[~mask].abs()
    assert mask.shape == weight.shape and len(pruned) == int(0.7 * 270) and kept.min() > pruned.max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (6, 33)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75, 0.99])
def test_all_but_the_lowest_are_kept_and_of_equal_scores_the_first_are_lower(shape, sparsity):
    scores = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).round()
    pruned = min(int(sparsity * shape[1]), shape[1] - 1)
    order = scores.argsort(dim=1, stable=True)
    expected = torch.ones(shape, dtype=torch.bool).scatter(1, order[:, :pruned], False)
    assert torch.equal(ranking.keep_best(scores, sparsity), expected)


def test_filters_of_least_score_are_pruned_whole():
    mask = filters.step(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), 0.5)
    assert mask.tolist() == [[True], [False], [False], [True], [True]]


def test_n_of_m_keeps_the_largest_of_each_group_of_inputs():
    weight = randn(4, 8, 3, 2)
    mask = sr_ste.step(weight, 2, 4)
    for o in range(4):
        for y in range(3):
            for x in range(2):
                for first in (0, 4):
                    group = weight[o, first : first + 4, y, x].abs().tolist()
                    best = sorted(range(4), key=group.__getitem__)[2:]
                    assert mask[o, first : first + 4, y, x].nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize(
    "m, sparsity, kept", [(4, 0.5, 2), (4, 0.75, 1), (8, 0.5, 4), (10, 0.9, 1), (4, 0.9, None), (4, 0.0, 4)]
)
def test_n_of_n_to_m(m, sparsity, kept):
    assert sr_ste.kept_of(m, sparsity) == kept


def test_a_random_mask_is_uniform_and_repeats_with_its_seed():
    masks = [random_uniform.step(6, 20, 0.75, generator(seed)) for seed in (1, 1, 2)]
    assert masks[0].sum(1).tolist() == [5] * 6
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert len({tuple(row.tolist()) for row in masks[0]}) == 6


def test_non_uniform_ranks_the_whole_layer():
    scores = randn(4, 10)
    mask = nonuniform.step(scores, 0.6, 0.6, 0.1, generator())
    assert mask.sum() == 16 and scores[mask].min() > scores[~mask].max()
    assert len(set(mask.sum(1).tolist())) > 1
    assert nonuniform.step(scores, 0.6, 0.35, 0.1, generator()).sum() == 16 + 10


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if not method.regroups]
)  # those: test_hrbp.py
def test_every_method_trains_to_its_sparsity_and_folds_its_zeros(method):
    sparsity = 0.5
    model = network()
    sparsifier = Sparsifier(model, n=4, sparsity=sparsity, method=method, epochs=4, start=0, end=3)
    for epoch in range(4):
        sparsifier.step(epoch)
        train_step(model)
    assert sparsifier.density == pytest.approx(1 - sparsity)
    masks = copy.deepcopy(sparsifier.masks)
    plain = sparsifier.fold()
    for name, mask in masks.items():
        weight = plain.get_submodule(name).weight
        spread = mask.repeat_interleave(len(weight) // len(mask), 0)
        spread = spread.reshape(*spread.shape, *[1] * (weight.ndim - spread.ndim)).expand_as(weight)
        assert not weight[~spread].any()
        assert METHODS[method].returns_zero or weight[spread].all()  # what came back at zero may not have moved yet


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.settles])
def test_masks_that_settle_stay_after_the_end(method):
    model = network()
    sparsifier = Sparsifier(model, n=4, method=method, epochs=9, start=1, end=2, input_shape=(3, 6, 6))
    masks = []
    for epoch in range(5):
        sparsifier.step(epoch)
        masks.append(sparsifier.masks[HIDDEN].clone())
        with torch.no_grad():
            weight = trained_weight(model[3])
            weight.copy_(weight.flip(1))
    assert masks[0].all() and not masks[2].all()
    assert torch.equal(masks[2], masks[3]) and torch.equal(masks[2], masks[4])


@pytest.mark.parametrize("method, end", [("random", 0), ("sr-ste", 0), ("subp", 72), ("magnitude", 72)])
def test_methods_that_prune_at_once_do_so_in_the_first_epoch(method, end):
    assert Sparsifier(network(), n=4, method=method, epochs=100).settings.end == end
    assert Sparsifier(network(), n=4, method=method, epochs=100, start=80).settings.end == (80 if end == 0 else 99)


def test_the_mask_of_n_of_m_follows_the_weights_at_every_forward_pass_in_training():
    model = network()
    sparsifier = Sparsifier(model, method="sr-ste", sparsity=0.5, epochs=1)
    sparsifier.step(0)
    before = sparsifier.masks[CONVOLUTION].clone()
    weight = trained_weight(model[1])
    with torch.no_grad():
        weight.copy_(torch.where(before, weight * 1e-30, weight))
    x = randn(2, 3, 6, 6)
    model.eval()(x)
    assert torch.equal(sparsifier.masks[CONVOLUTION], before)
    model.train()(x).sum().backward()
    assert torch.equal(sparsifier.masks[CONVOLUTION], ~before)
    assert (weight.grad != 0).all()


def test_scores_of_zeros_keep_pruned_blocks_pruned_and_scores_of_weights_let_them_return():
    def kept_again(scoring):
        model = network()
        sparsifier = Sparsifier(model, n=4, criterion="l1", scoring=scoring, epochs=4)
        sparsifier.step(3)
        group, channel = (~sparsifier.masks[CONVOLUTION]).nonzero()[0].tolist()
        with torch.no_grad():
            trained_weight(model[1])[4 * group : 4 * group + 4, channel] = 10.0
        sparsifier.step(3)
        return bool(sparsifier.masks[CONVOLUTION][group, channel])

    assert kept_again("weight") and not kept_again("masked") and not kept_again("active")


def test_active_blocks_rank_first_and_of_the_others_the_best_are_drawn():
    def step(scores, active, rate):
        return subp.step(torch.tensor([scores]), 0.5, rate, 1e-3, generator(), torch.tensor([active]))[0].tolist()

    scores, active = [1.0, 2.0, 9.0, 8.0, 3.0, 7.0], [True, True, False, False, True, False]
    assert step(scores, active, 0.5) == active  # all that may stay do, however the others score
    assert step(scores, active, 0.25) == [True, True, True, False, True, False]  # and the best of the others is drawn
    assert step(scores, [True] * 6, 0.5) == [False, False, True, True, False, True]


def test_layers_whose_inputs_do_not_divide_stay_dense_under_n_of_m():
    model = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3))
    sparsifier = Sparsifier(model, method="sr-ste", sparsity=0.5, epochs=1)
    assert sparsifier.skipped["0"] == "6 inputs do not divide into groups of 4" and list(sparsifier.masks) == ["1"]


def test_methods_without_blocks_prune_layers_that_blocks_do_not_fit():
    model = nn.Sequential(nn.Linear(6, 13), nn.Linear(13, 8), nn.Linear(8, 3))
    for method in ("magnitude", "filter"):
        assert list(Sparsifier(copy.deepcopy(model), n=8, method=method, epochs=1).masks) == ["0", "1"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "sr-ste", "sparsity": 0.7}, "sparsity = 0.7 leaves no whole number of 4 weights"),
        ({"method": "magnitude", "criterion": "l1"}, "magnitude has no criterion to choose"),
        ({"method": "nonuniform", "criterion": "bpar"}, "there is no criterion of nonuniform 'bpar'"),
        ({"scoring": "both"}, "there is no scoring of subp 'both': choose from masked, active, weight"),
        (
            {"scoring": "active", "method": "filter"},
            "there is no scoring of filter 'active': choose from weight, masked",
        ),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Sparsifier(network(), **({"n": 4, "epochs": 4} | options))


def test_a_hyperparameter_that_the_method_does_not_have_is_refused_by_those_that_it_has():
    with pytest.raises(UserError, match="subp has no hyperparameter strength: it has tau, alpha, decay"):
        Sparsifier(network(), n=4, epochs=1, strength=0.3)
    with pytest.raises(UserError, match="sr-ste has no hyperparameter strength or taus: it has m, decay"):
        Sparsifier(network(), method="sr-ste", sparsity=0.5, epochs=1, strength=0.3, taus=1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tau": 0.0}, "tau = 0.0: a temperature is above 0"),
        ({"tau": "warm"}, "tau = warm: a temperature is above 0"),
        ({"tau": True}, "tau = True: a temperature is above 0"),
        ({"alpha": math.nan}, "alpha = nan: it is a finite number"),
        ({"m": 0}, "m = 0: a group has at least 1 input"),
        ({"m": 4.0}, "m = 4.0: a group has at least 1 input"),
        ({"method": "random", "tau": -1.0}, "tau = -1.0: a temperature is above 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_whoever_has_them(options, message):
    with pytest.raises(UserError, match=message):
        Sparsifier(network(), **({"n": 4, "epochs": 4} | options))


def test_numpys_numbers_are_numbers():
    sparsifier = Sparsifier(network(), method="sr-ste", sparsity=0.5, epochs=1, m=np.int64(2), decay=np.float32(0))
    assert sparsifier.settings.hyperparameters["m"] == 2


def test_what_a_registered_method_would_take_from_another_is_refused():
    with pytest.raises(UserError, match="there is a method 'hrbp' already: choose another name"):
        register(METHODS["hrbp"])
    with pytest.raises(UserError, match="there is a method 'dense' already"):
        register(replace(METHODS["hrbp"], name="dense"))

    @dataclass(frozen=True)
    class Warmth(Hyperparameters):
        tau: float = hyperparameter(1.0, "Another.", lambda tau: True, "any")

    with pytest.raises(UserError, match=r"Warmth.tau: there is a hyperparameter of that name"):
        register(replace(METHODS["hrbp"], name="warm", options=Warmth))
    assert "warm" not in METHODS


def test_a_hyperparameter_with_a_settings_name_is_refused(monkeypatch):
    @dataclass(frozen=True)
    class Rate(Hyperparameters):
        lr: float = hyperparameter(1.0, "Another.", lambda lr: True, "any")

    monkeypatch.setitem(METHODS, "rated", replace(METHODS["hrbp"], name="rated", options=Rate))
    with pytest.raises(UserError, match="the hyperparameter lr has the name of a setting"):
        Config.of({"lr": 0.1})
