import itertools
import math

import pytest

from subp.pruning.schedules import SCHEDULES, default_span, pruning_rate

# At half time, from the formulas: x, 1 - cos(pi/4), (1 - e^-4.25) / (1 - e^-8.5), 1/8, 1 - 1/8.
HALF_TIME = {
    "linear": 0.5,
    "cosine": 1 - math.sqrt(0.5),
    "exponential": (1 - math.exp(-4.25)) / (1 - math.exp(-8.5)),
    "cubic": 0.125,
    "cubic-ease-out": 0.875,
}


def test_there_are_five():
    assert set(SCHEDULES) == set(HALF_TIME)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_climbs_from_zero_at_the_start_to_exactly_the_sparsity_at_the_end(name):
    rates = [pruning_rate(name, epoch, 10, 30, 0.7) for epoch in range(40)]
    assert rates[:11] == [0.0] * 11
    assert rates[30:] == [0.7] * 10
    assert all(a < b for a, b in itertools.pairwise(rates[10:31]))
    assert rates[20] == pytest.approx(0.7 * HALF_TIME[name])


def test_a_span_of_no_length_prunes_all_at_once():
    assert [pruning_rate("linear", epoch, 2, 2, 0.5) for epoch in range(4)] == [0.0, 0.0, 0.5, 0.5]
    assert pruning_rate("linear", 0, 0, 0, 0.5) == 0.5


def test_the_default_span_is_the_papers_in_proportion():
    assert default_span(250) == (10, 180)
    assert default_span(100) == (4, 72)


@pytest.mark.parametrize("epochs", range(1, 60))
def test_the_default_span_always_ends_within_the_run(epochs):
    start, end = default_span(epochs)
    assert 0 <= start <= end <= epochs - 1
    assert pruning_rate("cubic", epochs - 1, start, end, 0.75) == 0.75
