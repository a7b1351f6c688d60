"""Predicted latencies: records where there are some, estimates corrected by them elsewhere."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from zeros import prune

from tvm_sched import pipeline, targets
from tvm_sched.estimation.estimate import Board, calls
from tvm_sched.estimation.predict import Prediction, known, predict
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.records.recorded import Recorded

TARGET = replace(targets.get("x86-avx512"), cores=1)
BOARD = Board(2.0, math.inf, math.inf)


class Timed:
    """Records of the functions whose estimates are among `estimates`: `times` as long as these."""

    def __init__(self, estimates, times, estimated=False):
        self.estimates, self.times, self.estimated = estimates, times, estimated

    def known(self, func):
        at_1_ghz = known(func, TARGET, replace(BOARD, ghz=1.0), None).estimated
        if not any(at_1_ghz == pytest.approx(each * BOARD.ghz) for each in self.estimates):
            return None
        cost = at_1_ghz * self.times / (1 if self.estimated else BOARD.ghz)
        return Recorded(self.estimated, cost, replay=None)


@cache
def network(channels=64):
    """Two 1x1 layers of different shapes, then pooling."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(128, channels, 1), nn.ReLU(), nn.Conv2d(channels, 256, 1), nn.MaxPool2d(2)]
    return pipeline.fused(
        torch_export.from_torch(prune(nn.Sequential(*layers), 16, 0.5).eval(), torch.zeros(1, 128, 14, 14)),
        Compilation(TARGET),
    )


def estimates(mod):
    return [known(call.func, TARGET, BOARD, None).estimated for call in calls(mod)]


def seconds_of_moving(mod):
    """What is none of our kernels."""
    moved = [call.moved + call.stored for call in calls(mod) if known(call.func, TARGET, BOARD, None).kernel is None]
    assert moved
    return sum(moved) / TARGET.costs.moved_bytes_per_cycle / BOARD.ghz / 1e9


def alone(mod, records, board=BOARD) -> Prediction:
    return predict({"it": mod}, TARGET, board, records)["it"]


def test_without_records_estimates_add_up():
    mod = network()
    expected = sum(each for each in estimates(mod) if each) + seconds_of_moving(mod)
    assert alone(mod, None) == Prediction(pytest.approx(expected), 0.0)
    assert alone(mod, None, replace(BOARD, ghz=4.0)).seconds == pytest.approx(expected / 2)


def test_records_stand_for_estimates_and_correct_the_others():
    mod, other = network(), network(96)
    known = [each for each in estimates(mod) if each]
    assert len(known) == 2
    rest = seconds_of_moving(mod)
    whole = alone(mod, Timed(known, 3.0))
    assert whole.seconds == pytest.approx(3 * sum(known) + rest)
    assert whole.measured == pytest.approx(3 * sum(known) / whole.seconds)

    half = alone(mod, Timed(known[:1], 3.0))  # the second is corrected as the first one is
    assert half.seconds == pytest.approx(whole.seconds)
    assert half.measured == pytest.approx(3 * known[0] / whole.seconds)

    both = predict({"known": mod, "other": other}, TARGET, BOARD, Timed(known, 3.0))
    unrecorded = sum(each for each in estimates(other) if each)
    assert both["known"] == whole
    assert both["other"] == Prediction(pytest.approx(3 * unrecorded + seconds_of_moving(other)), 0.0)


def test_a_recorded_estimate_is_none_of_measuring():
    known = [each for each in estimates(network()) if each]
    assert alone(network(), Timed(known, 2.0, estimated=True)).measured == 0.0


def test_weights_come_from_memory():
    slow = replace(BOARD, dram_gb_s=1e-9)
    assert alone(network(), None, slow).seconds > sum(call.stored for call in calls(network())) > 0
