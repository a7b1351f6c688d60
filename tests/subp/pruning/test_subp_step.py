"""The step against its definition."""

import math

import pytest
import torch

from subp.pruning.methods.every_epoch.subp import draw, step
from subp.pruning.schedules import count


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_scores(groups, channels):
    return torch.rand(groups, channels, generator=generator(1))


@pytest.mark.parametrize(
    "fraction, channels, expected", [(0.75, 64, 48), (0.29, 100, 29), (0.7, 10, 7), (60 / 128, 64, 30)]
)
def test_counts_are_not_one_short_for_floating_error(fraction, channels, expected):
    assert count(fraction, channels) == expected


def test_counts_round_down():
    assert count(0.75, 3) == 2
    assert count(1 - 0.9, 64) == 6


@pytest.mark.parametrize(
    "sparsity, rate, kept", [(0, 0, 8), (0.75, 0.75, 2), (0.75, 0.5, 4), (0.75, 0, 8), (0.99, 0.99, 1)]
)
def test_every_group_keeps_exactly_its_count_and_its_best_blocks(sparsity, rate, kept):
    scores = some_scores(4, 8)
    mask = step(scores, sparsity, rate, 0.1, generator())
    assert mask.sum(1).tolist() == [kept] * 4
    for row, kept_row in zip(scores.tolist(), mask.tolist(), strict=True):
        best = sorted(range(8), key=row.__getitem__, reverse=True)[: max(1, 8 - math.floor(sparsity * 8))]
        assert all(kept_row[i] for i in best)


def test_at_least_one_block_of_a_group_is_kept():
    assert step(some_scores(2, 3), 0.9999999, 0.9999999, 0.1, generator()).sum(1).tolist() == [1, 1]


def test_the_same_seed_regrows_the_same_and_another_seed_others():
    scores = some_scores(16, 64)
    masks = [step(scores, 0.75, 0.5, 1.0, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_regrowing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    step(some_scores(4, 64), 0.75, 0.5, 1.0, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0])
    drawn = draw(logits.repeat(20_000, 1), 1, generator()).flatten()
    weights = [math.exp(v) for v in logits]
    for index, weight in enumerate(weights):
        expected = weight / sum(weights)
        assert (drawn == index).float().mean().item() == pytest.approx(expected, abs=4 * math.sqrt(expected / 20_000))


def test_second_draws_follow_the_softmax_of_what_is_left():
    first, second = draw(torch.tensor([0.0, 1.0, 2.0]).repeat(20_000, 1), 2, generator()).T
    after_two = second[first == 2]
    assert (after_two == 1).float().mean().item() == pytest.approx(math.e / (1 + math.e), abs=0.02)


def test_cold_regrowing_takes_the_best_of_the_pruned_blocks_even_where_probabilities_round_to_zero():
    scores = torch.linspace(0, 1, 64).repeat(8, 1)
    mask = step(scores, 0.5, 0.25, 1e-6, generator())
    assert mask[:, 16:].all() and not mask[:, :16].any()


def test_hot_regrowing_is_nearly_uniform():
    scores = torch.linspace(0, 1, 64).repeat(4096, 1)
    regrown = step(scores, 0.5, 0.25, 100.0, generator())[:, :32].float().mean(0)
    assert regrown.tolist() == pytest.approx([0.5] * 32, abs=0.05)
