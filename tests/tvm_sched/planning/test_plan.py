"""Which form a layer takes: by measurement where there is one, within what is allowed, else by estimate."""

from dataclasses import replace

import numpy as np
import pytest

from tvm_sched import targets
from tvm_sched.kernels.layer import Layer
from tvm_sched.planning.plan import (
    MOST,
    NEAR,
    NO_WINOGRAD,
    NOISE,
    OF_A_KIND,
    alternatives,
    carried_over,
    choose,
    layer_key,
    plans_of,
)

ONE = replace(targets.X86_AVX512, cores=1)


def layer(seed=0, kept=16, stride=1, size=14) -> Layer:
    """3x3, 64 -> 64 channels; 1x16 blocks, `kept` a row."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((64, 64, 3, 3), dtype="float32")
    for row in range(4):
        weight[16 * row : 16 * (row + 1), rng.permutation(64)[kept:]] = 0
    return Layer("conv2d 3x3", weight, (1, size, size, 64), 64, stride=(stride, stride), padding=(1, 1, 1, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_cheapest_by_estimate_is_chosen_and_comes_first_of_what_is_worth_measuring(stride):
    ranked = plans_of(layer(stride=stride), ONE)
    worth = alternatives(ranked)
    assert worth[0] is ranked[0] and choose(layer(stride=stride), ONE).kernel == ranked[0].kernel
    names = [plan.kernel for plan in worth]
    assert 1 < len(names) <= MOST and len(set(names)) == len(names)
    assert max(plan.cycles for plan in worth) <= NEAR * min(plan.cycles for plan in ranked)
    kinds = [(plan.form.words, plan.space_to_depth is None) for plan in worth]
    assert max(map(kinds.count, kinds)) <= OF_A_KIND


def test_another_form_is_taken_where_it_was_measured_to_be_faster_by_more_than_the_noise():
    first, second = (plan.kernel for plan in alternatives(plans_of(layer(), ONE))[:2])
    for seconds, chosen in (
        ({first: 1.0, second: 1 - 2 * NOISE}, second),
        ({first: 1.0, second: 1 - NOISE / 2}, first),
        ({first: 1.0}, first),
        ({second: 1.0}, second),  # a measurement beats an estimate
        ({"no form of this layer": 0.1}, first),
    ):
        asked = []
        assert choose(layer(), ONE, measured=lambda key, s=seconds, a=asked: a.append(key) or s).kernel == chosen
        assert asked == [layer_key(layer())]


def test_what_other_threads_take_is_carried_over_by_what_the_estimates_say_of_the_change():
    two = replace(ONE, cores=2)
    before, now = plans_of(layer(), ONE), plans_of(layer(), two)
    first, second = (plan.kernel for plan in alternatives(before)[:2])
    cycles = [{plan.kernel: plan.cycles for plan in plans} for plans in (before, now)]
    seconds = carried_over({first: 2.0, second: 1.0, "no form of this layer": 0.1}, before, now)
    assert seconds == {
        first: pytest.approx(2 * cycles[1][first] / cycles[0][first]),
        second: pytest.approx(cycles[1][second] / cycles[0][second]),
    }

    def measured(kernel):
        return lambda key: (1, {kernel: 1e-9})

    assert choose(layer(), two, on_others=measured(second)).kernel == second
    own = {first: 1.0, second: 2.0}
    assert choose(layer(), two, measured=lambda key: own, on_others=measured(second)).kernel == first
    assert choose(layer(), two, on_others=lambda key: (0, {})).kernel == choose(layer(), two).kernel


def test_a_form_that_is_not_allowed_is_not_taken_however_fast():
    plans = plans_of(layer(), ONE)
    seconds = {plan.kernel: 1e-9 if "winograd" in plan.kernel else 1e-3 for plan in plans}
    assert "winograd" in choose(layer(), ONE, measured=lambda key: seconds).kernel
    assert "winograd" not in choose(layer(), ONE, NO_WINOGRAD, lambda key: seconds).kernel


def test_a_layers_key_is_its_geometry_and_how_much_it_keeps():
    assert layer_key(layer(seed=0)) == layer_key(layer(seed=1))
    others = [layer(kept=32), layer(stride=2), layer(size=7), replace(layer(), dense=True)]
    assert len({layer_key(each) for each in (layer(), *others)}) == len(others) + 1


def test_weights_of_16_bits_are_taken_unless_they_are_slower():
    narrow = replace(layer(), weight_types=(None, "float16"))
    best = choose(layer(), ONE).kernel
    twin = f"{best}, float16 weights"
    assert choose(narrow, ONE).kernel == twin and choose(narrow, ONE).form.weights == "float16"
    slow = replace(ONE, costs=replace(ONE.costs, widen_float16_cycles=10.0))
    assert choose(narrow, slow).kernel == choose(layer(), slow).kernel
    other = next(
        plan.kernel for plan in plans_of(narrow, ONE) if plan.form.weights == "float16" and plan.wide_kernel != best
    )
    for seconds, chosen in (
        ({best: 1.0, twin: 1 + NOISE / 2}, twin),
        ({best: 1.0, twin: 1 + 2 * NOISE}, best),
        ({best: 1.0, twin: 1.0, other: 0.9}, other),
        ({best: 1.0}, twin),  # what was measured with float32 weights alone says nothing of the difference
    ):
        assert choose(narrow, ONE, measured=lambda key, s=seconds: s).kernel == chosen
    assert layer_key(narrow) == layer_key(layer())
    worth = [plan.kernel for plan in alternatives(plans_of(narrow, ONE))]
    assert [name for name in worth if "float16" not in name] == [p.kernel for p in alternatives(plans_of(layer(), ONE))]
    assert twin in worth and len(worth) <= 2 * MOST
