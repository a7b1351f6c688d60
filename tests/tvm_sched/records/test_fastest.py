"""The fastest records, packed: found by structure, replayed, merged, damage told in a sentence."""

import errno
import json
import os
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from torch import nn
from tvm.s_tir import Schedule
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of
from tvm_sched.pipeline import Compilation
from tvm_sched.planning import narrow_weights
from tvm_sched.records.database import Records, workload
from tvm_sched.records.fastest import (
    BEST,
    BestRecords,
    estimated,
    merge,
    write_best,
    write_estimates,
)
from tvm_sched.records.json_lines import LOCK
from tvm_sched.targets import cpu_model
from tvm_sched.tuning.tiles import Space, tasks_of

TARGET = replace(targets.host(), cores=1)
X = torch.zeros(1, 32, 8, 8)


def network(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, 0.25).eval()


@pytest.fixture(scope="module")
def task():
    (task,) = tasks_of(pipeline.fused(torch_export.from_torch(network(), X), Compilation(TARGET)))
    return task


@pytest.fixture(scope="module")
def database(task, tmp_path_factory):
    """Records of 3, 1 and 2 milliseconds."""
    folder = tmp_path_factory.mktemp("database")
    records = Records(folder, TARGET, create=True)
    for sch, seconds in zip(Space(task.func, TARGET).schedules, (3e-3, 1e-3, 2e-3), strict=False):
        records.add(task.func, sch, [seconds])
    return folder


def test_the_fastest_is_kept_and_replays(database, task, tmp_path):
    assert write_best(database, tmp_path) == 1
    (line,) = map(json.loads, (tmp_path / BEST).read_text().splitlines())
    assert (line["seconds"], line["threads"], line["target"], line["cpu"]) == (1e-3, 1, TARGET.family, cpu_model())
    packed, full = (
        BestRecords(tmp_path, TARGET).lookup(task.func).schedule,
        Records(database, TARGET).lookup(task.func).schedule,
    )
    assert str(packed.mod["main"].body) == str(full.mod["main"].body)


def test_other_functions_and_thread_counts_that_it_does_not_divide_among_find_none(database, task, tmp_path):
    write_best(database, tmp_path)
    assert BestRecords(tmp_path, replace(TARGET, cores=7)).lookup(task.func) is None
    (other,) = tasks_of(
        pipeline.fused(torch_export.from_torch(network(), torch.zeros(1, 32, 9, 9)), Compilation(TARGET))
    )
    assert BestRecords(tmp_path, TARGET).lookup(other.func) is None


def test_writing_again_replaces_a_kernels_line_and_keeps_the_others(database, tmp_path):
    write_best(database, tmp_path)
    line = json.loads((tmp_path / BEST).read_text())
    other = json.dumps(line | {"workload": "1", "threads": 7})
    (tmp_path / BEST).write_text(json.dumps(line | {"seconds": 9.0}) + "\n" + other + "\n")
    assert write_best(database, tmp_path) == 2
    times = {each["workload"]: each["seconds"] for each in map(json.loads, (tmp_path / BEST).read_text().splitlines())}
    assert times == {line["workload"]: 1e-3, "1": 1e-3}


def test_a_compiled_network_uses_them(database, tmp_path):
    write_best(database, tmp_path)
    compiled = tvm_sched.compile(network(seed=3), X, threads=1, records=tmp_path)
    assert [layer.schedule for layer in compiled.explain()] == ["record"]
    x = np.random.default_rng(0).standard_normal(X.shape, dtype="float32")
    np.testing.assert_allclose(compiled(x), network(seed=3)(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=1e-5)


def estimate_of(task, index: int, seconds: float) -> dict:
    """A line that says that a tile of the task is the best."""
    kernel = kernel_of(task.func)
    tiles = kernel.tiles(kernel.problem(Schedule(workload(task.func))), TARGET)
    return estimated(workload(task.func), TARGET, seconds, list(astuple(tiles[index])))


def test_an_estimate_is_used_where_nothing_is_measured(task, tmp_path):
    assert write_estimates(tmp_path, [estimate_of(task, 1, 1e-3)]) == 1
    second = Space(task.func, TARGET).schedules[1]
    assert str(BestRecords(tmp_path, TARGET).lookup(task.func).schedule.mod["main"].body) == str(
        second.mod["main"].body
    )
    compiled = tvm_sched.compile(network(), X, threads=1, records=tmp_path)
    assert [layer.schedule for layer in compiled.explain()] == ["estimate"]
    x = np.random.default_rng(0).standard_normal(X.shape, dtype="float32")
    np.testing.assert_allclose(compiled(x), network()(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=1e-5)


def test_a_measurement_beats_an_estimate_however_fast(database, task, tmp_path):
    lines = lambda: list(map(json.loads, (tmp_path / BEST).read_text().splitlines()))  # noqa: E731
    write_estimates(tmp_path, [estimate_of(task, 0, 1e-9)])
    assert write_best(database, tmp_path) == 1
    measured = lines()
    assert "trace" in measured[0] and measured[0]["seconds"] == 1e-3
    assert write_estimates(tmp_path, [estimate_of(task, 0, 1e-9)]) == 1
    assert lines() == measured
    assert BestRecords(tmp_path, TARGET).lookup(task.func).words == "record"


def test_a_later_estimate_replaces_an_earlier_one(task, tmp_path):
    for index in (0, 2):
        write_estimates(tmp_path, [estimate_of(task, index, 1e-3)])
    (line,) = map(json.loads, (tmp_path / BEST).read_text().splitlines())
    assert line == estimate_of(task, 2, 1e-3)


def test_the_default_is_kept_unless_beaten_by_more_than_the_noise(task, tmp_path):
    """The first that was measured is the default; each schedule counts by the least of its looks."""
    for second, chosen in ((0.98e-3, 0), (0.9e-3, 1)):
        folder = tmp_path / str(chosen)
        records, schedules = Records(folder, TARGET, create=True), Space(task.func, TARGET).schedules
        for index, seconds in ((0, 3e-3), (1, second), (0, 1e-3), (1, 2e-3)):
            records.add(task.func, schedules[index], [seconds])
        write_best(folder, folder)
        for each in (Records(folder, TARGET), BestRecords(folder, TARGET)):
            found = each.lookup(task.func)
            assert str(found.schedule.mod["main"].body) == str(schedules[chosen].mod["main"].body)
            assert found.cost == (1e-3 if chosen == 0 else second)


def lines_by(folder) -> dict:
    """(CPU, seconds) -> line"""
    lines = map(json.loads, (folder / BEST).read_text().splitlines())
    return {(line.get("cpu", ""), line["seconds"]): line for line in lines}


def test_merging_keeps_the_fastest_of_each_cpu_and_lookups_prefer_this_one(database, task, tmp_path):
    write_best(database, tmp_path / "mine")
    ((_, line),) = lines_by(tmp_path / "mine").items()
    old = {name: value for name, value in line.items() if name != "cpu"}
    for name, own in (
        ("slower", line | {"seconds": 7e-3}),
        ("other", line | {"cpu": "Other CPU", "seconds": 1e-4}),
        ("old", old | {"seconds": 1e-5}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / BEST).write_text(json.dumps(own) + "\n")
    folders = [tmp_path / name for name in ("slower", "other", "old")]
    assert merge([*folders, database], tmp_path / "all") == 3
    assert set(lines_by(tmp_path / "all")) == {(cpu_model(), 1e-3), ("Other CPU", 1e-4), ("", 1e-5)}
    assert BestRecords(tmp_path / "all", TARGET).lookup(task.func).words == "record"
    assert BestRecords(tmp_path / "all", TARGET).lookup(task.func).cost == 1e-3
    merge(folders[1:], tmp_path / "others")
    assert BestRecords(tmp_path / "others", TARGET).lookup(task.func).words == "record: made on Other CPU"
    assert BestRecords(tmp_path / "old", TARGET).lookup(task.func).words == "record"  # on a CPU that is not known
    compiled = tvm_sched.compile(network(), X, threads=1, records=tmp_path / "others")
    assert [layer.schedule for layer in compiled.explain()] == ["record: made on Other CPU"]
    assert compiled.schedules() == {"record": 1}


def test_merging_prefers_what_was_measured_and_tells_of_a_folder_without_records(database, task, tmp_path):
    write_estimates(tmp_path / "guess", [estimate_of(task, 0, 1e-9)])
    assert merge([tmp_path / "guess", database], tmp_path / "all") == 1
    assert set(lines_by(tmp_path / "all")) == {(cpu_model(), 1e-3)}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no tuning records in"):
        merge([database, tmp_path / "empty"], tmp_path / "all")


def test_a_database_of_another_cpu_says_so_and_is_measured_again(task, tmp_path):
    schedules = Space(task.func, TARGET).schedules
    Records(tmp_path, TARGET, create=True, cpu="Other CPU").add(task.func, schedules[1], [1e-3])
    here = Records(tmp_path, TARGET, create=True)
    assert here.lookup(task.func).words == "record: made on Other CPU" and here.measured(task.func) == []
    here.add(task.func, schedules[0], [5e-3])
    assert (here.lookup(task.func).words, here.lookup(task.func).cost) == ("record", 5e-3)


def test_a_write_that_fails_leaves_the_file_as_it_was(database, task, tmp_path, monkeypatch):
    write_best(database, tmp_path)
    before = (tmp_path / BEST).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"could not write .*No space left"):
        write_estimates(tmp_path, [estimate_of(task, 0, 1e-3) | {"threads": 2}])
    assert (tmp_path / BEST).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {BEST, LOCK}


@pytest.mark.parametrize("content, words", [("{", "cut off"), ("{}\n", "damaged"), ('["a"]\n', "damaged")])
def test_a_damaged_file_is_told(tmp_path, content, words):
    (tmp_path / BEST).write_text(content)
    with pytest.raises(UserError, match=words):
        BestRecords(tmp_path, TARGET)


def test_a_folder_without_records_is_told(tmp_path):
    with pytest.raises(UserError, match=f"no {BEST} in"):
        BestRecords(tmp_path, TARGET)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_function_of_16_bit_weights_takes_the_record_of_float32_ones(database, task, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(narrow_weights, "LEAST", 0)
    write_best(database, tmp_path)
    (narrow,) = tasks_of(pipeline.fused(torch_export.from_torch(network(), X), Compilation(TARGET, weights=dtype)))
    assert BestRecords(tmp_path, TARGET).known(narrow.func) is None
    for records in (BestRecords(tmp_path, TARGET), Records(database, TARGET)):
        found = records.lookup(narrow.func)
        assert found.words == "record for float32 weights"
        assert records.known(narrow.func) is None  # what it takes nobody has measured
        schedules = (found.schedule, records.lookup(task.func).schedule)
        loops = [str(sch.mod["main"].body).count("T.vectorized(") for sch in schedules]
        assert loops[0] == loops[1] > 0
    compiled = tvm_sched.compile(network(), X, threads=1, records=tmp_path, weights=dtype)
    assert [layer.schedule for layer in compiled.explain()] == ["record for float32 weights"]
    assert compiled.manifest["check"]["verified"]
