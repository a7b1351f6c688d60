"""The division of a network in two precisions is the cheapest there is."""

from itertools import chain, combinations

import numpy as np
import pytest

from tvm_sched.mixed_precision.cut import Cost, Value, cycles, in_8_bits


def random_costs(seed):
    """Seven sites in a row, some with a second reader or one outside."""
    rng = np.random.default_rng(seed)
    sites = {number: Cost(*rng.uniform(0, 10, 2)) for number in range(7)}
    values = [Value(None, [0, 3], 0.0, 1.0)]
    for number in sites:
        readers = [number + 1 if number + 1 < len(sites) else None]
        readers += [each for each in (*range(number + 2, len(sites)), None) if rng.random() < 0.2]
        values.append(Value(number, readers, *rng.uniform(0, 6, 2)))
    return sites, values


@pytest.mark.parametrize("seed", range(20))
def test_no_other_division_costs_less(seed):
    sites, values = random_costs(seed)
    subsets = chain.from_iterable(combinations(sites, count) for count in range(len(sites) + 1))
    least = min(cycles(sites, values, set(taken)) for taken in subsets)
    assert cycles(sites, values, in_8_bits(sites, values)) == pytest.approx(least, rel=1e-9)


def test_conversions_are_paid_once_to_float32_and_by_each_reader_to_8_bits():
    sites = {name: Cost(1.0, 10.0) for name in "abc"}
    values = [Value(None, ["a"], 3.0, 0.0), Value("a", ["b", "c"], 5.0, 7.0), Value("b", [None], 0.0, 2.0)]
    assert cycles(sites, values, set()) == 30
    assert cycles(sites, values, {"a"}) == 1 + 20 + 3 + 7
    assert cycles(sites, values, {"b", "c"}) == 10 + 2 + 2 * 5 + 2
    assert cycles(sites, values, set("abc")) == 3 + 3 + 2


def test_a_faster_layer_alone_is_not_worth_its_conversions():
    sites = {0: Cost(9.0, 5.0), 1: Cost(4.0, 5.0), 2: Cost(9.0, 5.0)}
    values = [Value(0, [1], 1.0, 1.0), Value(1, [2], 1.0, 1.0)]
    assert in_8_bits(sites, values) == set()
    assert in_8_bits(sites | {1: Cost(2.0, 5.0)}, values) == {1}
