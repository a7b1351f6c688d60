"""A network's parts run one after the other and give the same numbers; what is made of their times."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched import targets
from tvm_sched.bench.thread_parts import Launcher, Run, by_call, launched_by, least, runs, simulated
from tvm_sched.planning.sharing import ParallelLoop, SharedCall

THREADS = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A network compiled for three threads."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.MaxPool2d(2)
    ).eval()
    here = replace(targets.host(), name="here", cores=THREADS)
    path = tmp_path_factory.mktemp("parts") / "net.so"
    tvm_sched.compile(network, torch.zeros(1, 3, 48, 48), target=here).save(path)
    return path


def test_parts_of_any_number_of_threads_give_the_same_numbers(saved):
    artifact = tvm_sched.load(saved, threads=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 48), dtype="float32")
    expected = artifact(x).copy()
    calls = [SharedCall.from_json(each) for each in artifact.manifest["calls"]]
    for threads in (1, THREADS, 5):
        launcher = Launcher(threads)
        with launched_by(saved, launcher):
            np.testing.assert_array_equal(artifact(x), expected)
        assert len(launcher.parts_ns) == sum(call.launches for call in calls)
        assert {len(parts) for parts in launcher.parts_ns} == {threads}
        count = len(launcher.parts_ns)
        np.testing.assert_array_equal(artifact(x), expected)  # by TVM's pool again
        assert len(launcher.parts_ns) == count


def test_runs_time_every_part(saved):
    artifact = tvm_sched.load(saved, threads=1)
    x = np.zeros((1, 3, 48, 48), "float32")
    found = runs(saved, lambda: artifact(x), THREADS, 4)
    assert len(found) == 4
    assert {run.parts_us.shape for run in found} == {(found[0].parts_us.shape[0], THREADS)}
    assert all((run.parts_us >= 0).all() and run.between_us > 0 for run in found)


def test_the_longest_parts_and_the_barriers_are_what_a_call_takes():
    run = Run(np.array([[10.0, 8.0], [2.0, 6.0]]), 5.0)
    result = simulated(run, barrier_us=0.5)
    assert (result.threads, result.total_us, result.alone_us, result.barriers_us) == (2, 22, 31, 1)
    assert result.speed_up == pytest.approx(31 / 22)
    np.testing.assert_allclose(result.uneven, [10 / 9, 6 / 4])
    alone = simulated(Run(np.array([[10.0], [2.0]]), 5.0), barrier_us=0.5)
    assert (alone.total_us, alone.barriers_us) == (17, 0)


def test_the_least_of_several_runs_is_taken_part_by_part():
    several = [Run(np.array([[3.0, 1.0]]), 4.0), Run(np.array([[2.0, 5.0]]), 6.0)]
    np.testing.assert_array_equal(least(several).parts_us, [[2, 1]])
    assert least(several).between_us == 4


def test_launches_are_dealt_out_to_the_calls_that_make_them():
    calls = [SharedCall("a", (ParallelLoop(4, 2),)), SharedCall("b", ()), SharedCall("c", (ParallelLoop(1, 1),))]
    calls.append(SharedCall("d", (ParallelLoop(2, 1), ParallelLoop(3, 1))))
    assert [parts for _, parts in by_call(calls, [1, 2, 3, 4])] == [[1, 2], [], [], [3, 4]]
    with pytest.raises(ValueError, match="3 launches of 4"):
        by_call(calls, [1, 2, 3])
