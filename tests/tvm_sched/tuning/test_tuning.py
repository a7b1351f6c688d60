"""Tuning measures for real, records, goes on where it was, and what it records is used."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.kernels import direct_conv2d
from tvm_sched.records.database import RECORDS, WORKLOADS
from tvm_sched.records.form_times import FORMS
from tvm_sched.tuning import finished, measuring, search, tiles

TRIALS = 10  # more than the cost model's warm-up: later trials are ranked by it


def network(seed=0):
    """Two distinct kernels: a sparse convolution called twice, and a depthwise one."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
    ]
    return prune(nn.Sequential(*layers), 16, 0.25).eval(), torch.randn(1, 32, 8, 8)


def tune(folder, trials=TRIALS, seed=0, **options):
    return tvm_sched.tune(*network(seed), threads=1, records=folder, trials=trials, **options)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(folder, summary, calls of progress)"""
    folder, calls = tmp_path_factory.mktemp("tuned") / "records", []
    return folder, tune(folder, progress=lambda *call: calls.append(call)), calls


@pytest.fixture
def copy(tuned, tmp_path):
    """The records in a folder of one's own."""
    return Path(shutil.copytree(tuned[0], tmp_path / "records"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def distinct(folder) -> int:
    """How many schedules have records."""
    return distinct_lines((folder / RECORDS).read_bytes().splitlines())


def distinct_lines(records) -> int:
    """How many schedules lines of records are of."""
    return len({(workload, json.dumps(record[0])) for workload, record in map(json.loads, records)})


def test_the_default_and_the_best_are_looked_at_again(tuned):
    folder, _, _ = tuned
    looks = Counter((workload, json.dumps(record[0])) for workload, record in lines(folder / RECORDS))
    assert set(looks.values()) <= set(range(1, tiles.LOOKS + 1))
    for workload in range(len(lines(folder / WORKLOADS))):
        again = [each for each in looks if each[0] == workload and looks[each] == tiles.LOOKS]
        assert len(again) <= 2  # the default alone where it was the best, or one of a form that is far slower
    assert sum(times == tiles.LOOKS for times in looks.values()) >= 1


def test_every_trial_is_a_record_in_metaschedules_format(tuned):
    folder, summary, _ = tuned
    assert summary.failed == 0
    workloads = len(lines(folder / WORKLOADS))
    assert workloads >= len(summary.tasks) == 2  # those of forms that were not taken besides
    records = lines(folder / RECORDS)
    assert distinct(folder) >= sum(each.measured for each in summary.tasks)
    for workload, (trace, seconds, target, arguments) in records:
        assert 0 <= workload < workloads
        assert len(trace) == 2 and len(arguments) >= 3
        assert all(1e-8 < float(second) < 1 for second in seconds)
        assert target["num-cores"] == 1


def test_each_distinct_kernel_is_measured_once_however_often_it_is_called(tuned):
    tasks = tuned[1].tasks
    assert [each.task.calls for each in tasks] == [2, 1]
    assert [each.task.layers for each in tasks] == [("0", "2"), ("4",)]
    assert {each.task.shape for each in tasks} == {"32x8x8 -> 32x8x8"}
    assert all(1 < task.measured <= TRIALS for task in tasks)


def test_the_default_is_measured_and_the_best_is_no_slower(tuned):
    for task in tuned[1].tasks:
        assert 0 < task.best_ms <= task.default_ms < 100


def test_progress_never_goes_back_and_ends_with_the_last_task(tuned):
    _, summary, calls = tuned
    forms, of_tiles = ([call for call in calls if ("forms of" in call[2]) == first] for first in (True, False))
    assert calls == forms + of_tiles
    assert [call[:2] for call in forms] == [(number, len(forms)) for number in range(len(forms))]
    done = [call[0] for call in of_tiles]
    assert done == sorted(done)
    assert {call[1] for call in of_tiles} == {2 * TRIALS}
    assert done[-1] >= TRIALS
    assert {call[2] for call in of_tiles} == {each.task.name for each in summary.tasks}


def test_a_second_run_measures_nothing_new(copy, monkeypatch):
    monkeypatch.setattr(measuring.Measurer, "measure", lambda *_: pytest.fail("measured again"))
    before = (copy / RECORDS).read_bytes()
    again = tune(copy)
    assert (copy / RECORDS).read_bytes() == before
    assert again.failed == 0 and all(task.best_ms > 0 for task in again.tasks)


def test_the_same_search_again_answers_before_it_exports(tuned, copy, monkeypatch):
    monkeypatch.setattr(search.torch_export, "in_parts", lambda *_: pytest.fail("exported again"))
    again, first = tune(copy), tuned[1]
    assert (again.built, again.failed, again.forms) == (0, 0, [])
    told = [(each.task.layers, each.task.shape, each.task.kernel, each.measured, each.best_ms) for each in first.tasks]
    found = [(each.task.layers, each.task.shape, each.task.kernel, each.measured, each.best_ms) for each in again.tasks]
    assert found == told


def test_a_search_is_known_by_network_inputs_and_options():
    module, x = network()

    def key(module=module, x=x, **options):
        return finished.key_of(module, [x], options)

    assert key() == key(*network()) and key(trials=3) == key(trials=3)
    strided = network()[0]
    strided[0].stride = (2, 2)
    others = [key(network(7)[0]), key(x=x[..., :4]), key(trials=3), key(trials=4), key(strided), key(module[:3])]
    others.append(key(torch.export.export(module, (x,))))
    assert None not in others and len({key(), *others}) == 1 + len(others)
    for told in ([1, 2], [1, 3], nn.functional.relu, nn.functional.gelu, {"table": x}, {"table": x + 1}):
        module.told = told  # as forward would read it
        others.append(key(module))
    assert None not in others and len({key(), *others}) == len(others)
    module.told = lambda: 1
    assert key(module) is None
    del module.told
    assert key(nn.Sequential(type("TypedIn", (nn.Module,), {"__module__": "typed_in"})())) is None


def test_more_trials_add_to_the_records(copy):
    before = (copy / RECORDS).read_bytes()
    summary = tune(copy, trials=TRIALS + 2)
    after = (copy / RECORDS).read_bytes()
    assert after.startswith(before)
    assert distinct(copy) >= sum(each.measured for each in summary.tasks)
    assert after.count(b"\n") > before.count(b"\n")


def test_another_network_of_the_same_shapes_needs_no_tuning(copy, monkeypatch):
    monkeypatch.setattr(measuring.Measurer, "measure", lambda *_: pytest.fail("measured again"))
    tune(copy, seed=7)


@pytest.mark.parametrize("seed", [0, 7])
def test_compile_uses_the_records_and_stays_correct(tuned, seed):
    module, x = network(seed)
    artifact = tvm_sched.compile(module, x, threads=1, records=tuned[0])
    assert [row.schedule for row in artifact.explain()] == ["record"] * 3
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x.numpy()), module(x).numpy(), rtol=0, atol=1e-5)


def test_compile_without_records_uses_the_defaults():
    artifact = tvm_sched.compile(*network(), threads=1)
    assert all(row.schedule.startswith("default: ") for row in artifact.explain())


def test_records_of_another_number_of_threads_are_not_used(tuned):
    two = replace(targets.host(), name="two", cores=2)
    artifact = tvm_sched.compile(*network(), target=two, records=tuned[0])
    assert all(row.schedule.startswith("default: ") for row in artifact.explain())


def test_a_cut_off_last_line_stops_compile_but_not_tune(copy):
    path = copy / RECORDS
    whole, schedules = path.read_bytes(), distinct(copy)
    path.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"the last line of .* is cut off"):
        tvm_sched.compile(*network(), threads=1, records=copy)
    assert path.read_bytes() == whole[:-30]
    tune(copy)
    assert path.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert distinct(copy) == schedules  # how many lines depends on which is looked at again
    tvm_sched.compile(*network(), threads=1, records=copy)


def test_no_time_left_measures_nothing(tmp_path):
    summary = tune(tmp_path, minutes=1e-9)
    assert [task.measured for task in summary.tasks] == [0, 0]
    assert all(math.isnan(task.default_ms) and math.isnan(task.best_ms) for task in summary.tasks)


@pytest.mark.parametrize("target", ["cortex-a76", "x86-avx2", "x86-avx512"])
def test_a_target_of_other_instructions_is_refused(tmp_path, target):
    if targets.get(target).arch == targets.host().arch and set(targets.get(target).cpu_flags) <= targets.cpu_flags():
        pytest.skip("this machine has these instructions")
    with pytest.raises(UserError, match=f"target '{target}' cannot be measured on this machine"):
        tune(tmp_path / "records", target=target)
    assert not (tmp_path / "records").exists()


def test_a_kernel_that_fails_to_run_is_counted_and_tuning_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "TIMEOUT_S", 0.001)  # every measurement takes too long: the images are large
    module, x = network()[0][4:], torch.randn(1, 32, 224, 224)  # one kernel: after each failure a process starts anew
    summary = tvm_sched.tune(module, x, threads=1, records=tmp_path, trials=1)
    assert summary.failed >= 1 and all(math.isnan(each.best_ms) or math.isinf(each.best_ms) for each in summary.tasks)
    assert not (tmp_path / FORMS).exists()  # of a layer that failed in all forms nothing is known
    assert not (tmp_path / RECORDS).exists() or (tmp_path / RECORDS).read_text() == ""


def test_indices_drawn_for_a_measurement_are_a_patterns():
    infos = [("float32", (1, 8, 8, 32)), ("float32", (4, 8, 1, 1, 16)), ("int32", (4, 8))]
    x, data, indices = direct_conv2d.KERNEL.arguments(None, infos, np.random.default_rng(0))
    assert (x.shape, data.shape, indices.dtype) == ((1, 8, 8, 32), (4, 8, 1, 1, 16), np.int32)
    assert (np.diff(indices, axis=1) > 0).all() and indices.min() >= 0 and indices.max() < 32


KILLED = """
import sys
sys.path[:0] = {path!r}
from test_tuning import tune
tune({folder!r}, trials=30)
"""


def test_a_run_that_is_killed_loses_nothing_and_goes_on(tmp_path):
    folder = tmp_path / "records"
    script = KILLED.format(path=[str(each) for each in Path(__file__).parents[:4]], folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not (folder / RECORDS).exists() or (folder / RECORDS).read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    whole = [line for line in left if line.endswith(b"\n")]
    assert len(whole) >= 2
    before = distinct_lines(whole)
    summary = tune(folder, trials=len(whole) + 1)
    assert (folder / RECORDS).read_bytes().startswith(b"".join(whole))
    assert distinct(folder) > before and all(each.measured > 1 for each in summary.tasks)
