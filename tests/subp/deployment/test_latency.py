"""Sparsity and N by layer from a latency: the knapsack against all choices there are, and networks that are planned."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.deployment import latency
from subp_contract.errors import UserError

SHAPE = (3, 16, 16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def prune(**options):
    return Sparsifier(network(), n=16, epochs=1, target="x86-avx2", input_shape=SHAPE, **options)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.35, 0.6, 1.0])
def test_no_choice_of_nearly_the_same_time_keeps_more(seed, share):
    draws = np.random.default_rng(seed)
    weights = np.sort(draws.uniform(1, 100, (5, 4)), axis=1)[:, ::-1]
    times = np.sort(draws.uniform(1, 10, (5, 4)), axis=1)[:, ::-1] * [1, 0.6, 0.4, 0.2]
    limit = share * times[:, 0].sum()
    rows = np.arange(5)
    chosen = latency.most_kept(times, weights, limit)
    assert times[rows, chosen].sum() <= limit
    every = [list(each) for each in itertools.product(range(4), repeat=5)]
    nearly = limit * (1 - 1 / latency.UNITS)
    most = max(weights[rows, each].sum() for each in every if times[rows, each].sum() <= nearly)
    assert weights[rows, chosen].sum() >= most
    if share == 1.0:
        assert chosen == [0] * 5


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(latency, "STEPS", (0.5, 0.75))


def test_layers_get_sparsities_that_meet_the_predicted_time(few_steps):
    sparsifier = prune(target_latency=0.8, method="random")
    assert list(sparsifier.sparsities) == ["2", "4"] and set(sparsifier.block_sizes.values()) == {16}
    assert set(sparsifier.sparsities.values()) <= {0.0, 0.5, 0.75} and any(sparsifier.sparsities.values())
    selection = {"exclude": (), "include": ()}
    choices = [(16, 0.0), (16, 0.5), (16, 0.75)]
    times, rest = latency.layer_times(network(), choices, SHAPE, "x86-avx2", ["2", "4"], selection)
    assert (times > 0).all() and rest > 0 and (np.diff(times[0]) < 0).all()
    steps = [(0.0, 0.5, 0.75).index(p) for p in sparsifier.sparsities.values()]
    taken = rest + times[np.arange(2), steps].sum()
    assert taken <= 0.8 * (rest + times[:, 0].sum())
    sparsifier.step(0)
    kept = {name: mask.float().mean().item() for name, mask in sparsifier.masks.items()}
    assert kept == {name: 1 - p for name, p in sparsifier.sparsities.items()}
    state = sparsifier.state_dict()
    state["sparsities"] = dict.fromkeys(state["sparsities"], 0.5)  # what was known of the CPU then
    sparsifier.load_state_dict(state)
    assert set(sparsifier.sparsities.values()) == {0.5}


# seconds of layers "2" and "4": dense; then 1x16, 1x8 and 1x32, each at 50 and 75 %
TIMES = np.array([[8.0, 4.0, 2.0, 6.0, 4.0, 3.9, 1.9], [8.0, 4.0, 2.0, 4.0, 2.0, 3.9, 1.9]])


@pytest.fixture
def known_times(few_steps, monkeypatch):
    monkeypatch.setattr(latency, "layer_times", lambda _, choices, *others: (TIMES[:, : len(choices)], 1.0))


def test_layers_take_narrow_blocks_where_they_cost_nothing(known_times):
    # 75 % in both layers: neither can afford 50 %
    sparsifier = prune(target_latency=5.1 / 17, method="st-3", vary_n=True)
    assert sparsifier.sparsities == {"2": 0.75, "4": 0.75}
    assert sparsifier.block_sizes == {"2": 16, "4": 8}
    assert {name: tuple(mask.shape) for name, mask in sparsifier.masks.items()} == {"2": (2, 16), "4": (8, 32)}
    assert prune(target_latency=5.1 / 17).block_sizes == {"2": 16, "4": 16}
    # where nothing else is fast enough
    assert prune(target_latency=4.95 / 17, vary_n=True).block_sizes == {"2": 32, "4": 8}


def test_block_sizes_saved_count_where_they_were_chosen(known_times):
    def options():
        return {"target_latency": 5.1 / 17, "method": "st-3", "vary_n": True}

    first = prune(**options())
    state = first.state_dict()
    state["block_sizes"]["2"], state["masks"]["2"] = 32, torch.ones(1, 16, dtype=torch.bool)
    second = prune(**options())
    second.load_state_dict(state)
    assert second.block_sizes == {"2": 32, "4": 8}
    second.step(0)
    second.model.train()(torch.randn(2, *SHAPE))  # masks follow the weights, in blocks of 32
    assert second.masks["2"].shape == (1, 16) and second.masks["2"].sum() == 4
    folded = second.fold()[2].weight
    assert (folded != 0).reshape(32, 16, -1).all(2).sum(1).tolist() == [4] * 32
    state["masks"]["4"] = torch.ones(1, 1, dtype=torch.bool)
    third = prune(**options())
    before = third.state_dict()
    with pytest.raises(UserError, match=r"layer 4 has a mask of \[8, 32\], the saved state one of \[1, 1\]"):
        third.load_state_dict(state | {"sparsities": {"2": 0.5, "4": 0.5}})
    after = third.state_dict()  # is as it was: the sizes and sparsities that were right are not taken either
    assert all(torch.equal(mask, after["masks"][name]) for name, mask in before.pop("masks").items())
    assert before == {name: after[name] for name in before}
    state["block_sizes"]["2"] = 5
    with pytest.raises(UserError, match="saved block size of 2 is 5, this sparsifier's 16"):
        prune(**options()).load_state_dict(state)


@pytest.mark.parametrize(("size", "pruned"), [(4, 0.5), (16, 0.75), (144, 0.9)])
def test_energy_is_what_the_best_of_normal_blocks_hold(size, pruned):
    squares = np.sort((np.random.default_rng(0).standard_normal((20000, size)) ** 2).sum(1))
    expected = squares[round(pruned * 20000) :].sum() / squares.sum()
    assert latency.energy(pruned, size) == pytest.approx(expected, abs=4e-3)
    assert latency.energy(0.0, size) == 1


def test_what_cannot_be_met_or_planned_is_told(few_steps):
    with pytest.raises(UserError, match=r"0.01 cannot be reached on x86-avx2: with 75.0% of the blocks"):
        prune(target_latency=0.01)
    with pytest.raises(UserError, match="vary_n lets layers choose N for a target_latency"):
        prune(sparsity=0.75, vary_n=True)
    for options, sentence in [
        ({"target_latency": 1.5}, r"is not in \(0, 1\]"),
        ({"target_latency": 0.5, "sparsity": 0.5}, "exclude each other"),
        ({"target_latency": 0.5, "method": "filter"}, "whose groups keep equally many blocks, not filter"),
        ({"target_latency": 0.5, "multiple": 4}, "leave out allocation and multiple"),
    ]:
        with pytest.raises(UserError, match=sentence):
            prune(**options)
    with pytest.raises(UserError, match="target_latency needs an input_shape"):
        Sparsifier(network(), epochs=1, target_latency=0.5)
