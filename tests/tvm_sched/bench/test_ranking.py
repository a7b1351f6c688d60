"""Rankings on this machine say what was measured; what they say together is counted by hand."""

from dataclasses import replace

import pytest
import torch

from tvm_sched import targets
from tvm_sched.bench.calibration import ranking
from tvm_sched.bench.calibration.ranking import Ranking
from tvm_sched.bench.engines import Network

HOST = replace(targets.host(), cores=1)


def of(tau, regret, calls=1, microseconds=10.0):
    return Ranking("fused", "direct_conv2d", calls, 5, tau, regret, 1.0, microseconds)


def test_rankings_together():
    total = ranking.agreement([of(0.9, 1.0, calls=3), of(0.5, 2.0), of(None, 1.0), of(0.7, 1.25)])
    assert (total.tau, total.share) == (0.7, 2 / 3)
    assert total.regret == pytest.approx(60 / (30 + 5 + 10 + 8))


def test_estimates_without_an_order_have_no_tau():
    assert ranking.tau_of([1, 1, 1], [3, 2, 1]) is None and ranking.tau_of([1, 2], [1, 2]) is None
    assert ranking.tau_of([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(2 / 3)


def test_kernels_without_an_order_say_nothing():
    with pytest.raises(ValueError, match="no kernel"):
        ranking.agreement([of(None, 1.0)])


def test_each_kernel_of_two_networks_is_ranked_once():
    torch.manual_seed(0)
    x = torch.randn(1, 16, 12, 12)
    networks = [
        Network("one", torch.nn.Conv2d(16, 32, 1).eval(), x, None, 0.0),
        Network(
            "two", torch.nn.Sequential(torch.nn.Conv2d(16, 32, 1), torch.nn.Conv2d(32, 32, 3)).eval(), x, None, 0.0
        ),
    ]
    tasks = ranking.tasks_of_all(networks, HOST)
    assert len(tasks) == 2
    told = []
    for each in ranking.rank(tasks, HOST, tiles=4, progress=lambda done, total, name: told.append((done, total))):
        assert 3 <= each.tiles <= 4 and -1 <= each.tau <= 1
        assert each.regret >= 1 and each.bias > 0 and each.microseconds > 0
    assert told == [(0, 2), (1, 2)]
