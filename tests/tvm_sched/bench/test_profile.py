"""A profile's steps are the network's calls in order, each with its layer, and their sum is the whole call."""

from io import StringIO

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched.bench import profile
from tvm_sched.bench.profile import table

PEAK_GFLOPS = 50.0


class Branches(nn.Module):
    """Two layers of one shape, computed by one function, around a pool and another layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.strided = nn.Conv2d(16, 32, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        x = self.pool(self.first(x).relu())
        return self.strided(self.second(x).relu())


@pytest.fixture(scope="module")
def artifact():
    torch.manual_seed(0)
    return tvm_sched.compile(Branches().eval(), torch.zeros(2, 16, 9, 9), threads=1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((2, 16, 9, 9), "float32")


def test_layers_of_one_function_are_told_apart_by_their_calls(artifact, x):
    rows = {row.name: row for row in artifact.explain()}
    assert rows["first"].function == rows["second"].function != rows["strided"].function
    assert [rows[name].call for name in ("first", "second", "strided")] == [0, 1, 0]
    steps = profile.profile(artifact, x, PEAK_GFLOPS, threads=1, seconds=0.05).steps
    assert [step.layer for step in steps if step.layer] == ["first", "second", "strided"]


def test_pools_are_shown_and_the_sum_is_the_whole_call(artifact, x):
    made = profile.profile(artifact, x, PEAK_GFLOPS, threads=1, seconds=0.05)
    assert any("pool" in step.kernel and not step.layer for step in made.steps)
    assert sum(step.median_us for step in made.steps) == pytest.approx(made.instrumented_us)
    assert sum(step.share for step in made.steps) == pytest.approx(1)


def test_the_share_of_the_peak_counts_two_operations_a_multiply_add(artifact, x):
    steps = profile.profile(artifact, x, PEAK_GFLOPS, threads=1, seconds=0.05).steps
    (step,) = (step for step in steps if step.layer == "strided")
    assert step.kept_macs == 2 * 4 * 4 * 32 * 16 * 9
    assert step.share_of_peak == pytest.approx(2 * step.kept_macs / (step.median_us * 1e-6) / (PEAK_GFLOPS * 1e9))
    assert next(step for step in steps if not step.layer).share_of_peak is None


def test_a_timed_artifact_computes_the_same_and_tells_one_time_more_than_it_has_steps(artifact, x):
    told = []
    assert np.array_equal(artifact.timed(lambda times: told.append(times.copy()))(x), artifact(x))
    (steps,) = artifact.manifest["steps"]
    *_, times = told  # the first calls are those that make it ready
    assert len(steps) > 4 and times.shape == (len(steps) + 1,)
    assert (np.diff(times) >= 0).all() and times[-1] > times[0]


def test_what_the_virtual_machine_does_between_two_runs_of_calls_has_no_function():
    assert profile.intervals([["conv", "conv_in_place"], [], ["mean"]]) == ["conv", "conv", None, None, "mean"]


def test_the_table_ends_with_the_sums(artifact, x):
    from rich.console import Console

    console = Console(width=160, record=True, file=StringIO())
    console.print(table(profile.profile(artifact, x, PEAK_GFLOPS, threads=1, seconds=0.05)))
    text = console.export_text()
    assert all(name in text for name in ("first", "second", "strided", "direct 1x16", "100.0%", "with its steps timed"))
