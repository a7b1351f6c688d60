"""The loop of loads computes what it says; rounds are judged by the loops in them."""

import numpy as np
import pytest

from tvm_sched.bench import core_state, peak
from tvm_sched.bench.core_state import LOADS, PEAK, LoadLoop, Steal


@pytest.mark.parametrize("threads", [1, 2])
def test_the_loop_multiplies_every_pixel_with_every_weight(threads):
    loop = LoadLoop(threads, iterations=3)
    loop()
    expected = 3 * (loop.pixels.astype("float64") @ loop.weights)
    assert loop.sums.shape == (threads, peak.VECTORS, loop.weights.shape[1])
    np.testing.assert_allclose(loop.sums, np.broadcast_to(expected, loop.sums.shape), rtol=1e-6)


ROUNDS = [
    {"net": [5.0], PEAK: [1.0, 1.0, 9.0], LOADS: [2.0, 2.1, 2.0]},  # undisturbed, but for one call
    {"net": [9.0], PEAK: [1.0, 1.0, 1.0], LOADS: [4.0, 4.0, 4.0]},  # a neighbour takes half of the loads
    {"net": [7.0], PEAK: [1.25, 1.25, 1.0], LOADS: [2.0, 2.0, 2.0]},  # a slower clock
]


def test_a_round_is_as_good_as_the_worse_of_its_loops():
    assert core_state.shares(ROUNDS) == pytest.approx([1.0, 0.5, 0.8])
    assert core_state.undisturbed(ROUNDS) == [(ROUNDS[0], pytest.approx(1.0))]


def test_what_the_host_gave_to_others():
    before = Steal.now(lambda: "cpu  100 0 50 800 10 0 0 40 0 0\ncpu0 ...")
    after = Steal.now(lambda: "cpu  150 0 50 830 10 0 0 60 0 0\ncpu0 ...")
    assert before == Steal(stolen=40, total=1000)
    assert after.since(before) == pytest.approx(0.2)
    assert Steal.now(lambda: "intr 1 2 3") is None


def unreadable():
    raise FileNotFoundError


def test_a_system_that_does_not_tell():
    assert Steal.now(unreadable) is None
    assert core_state.clock_ghz(unreadable) is None
    assert core_state.clock_ghz(lambda: "model name : x\n") is None


def test_the_fastest_clock():
    assert core_state.clock_ghz(lambda: "cpu MHz\t\t: 2400.0\ncpu MHz\t\t: 3650.5\n") == pytest.approx(3.6505)
