"""Records on disk: kept whole, looked up by structure and thread count, damage told in a sentence."""

import json
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from tvm.s_tir import meta_schedule as ms
from zeros import prune

from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import RECORDS, WORKLOADS, Records, workload
from tvm_sched.records.json_lines import LOCK, locked
from tvm_sched.tuning.tiles import Space, tasks_of

TARGET = replace(targets.X86_AVX2, cores=1)


def tasks(seed=0, size=8, density=0.25):
    """The kernels of a network with uniform zeros: one convolution."""
    torch.manual_seed(seed)
    network = prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, density).eval()
    return tasks_of(
        pipeline.fused(torch_export.from_torch(network, torch.zeros(1, 32, size, size)), Compilation(TARGET))
    )


@pytest.fixture(scope="module")
def task():
    (task,) = tasks()
    return task


@pytest.fixture(scope="module")
def schedules(task):
    return Space(task.func, TARGET).schedules


@pytest.fixture(scope="module")
def original(task, schedules, tmp_path_factory):
    """Three records of a task: of 3, 1 and 2 milliseconds."""
    folder = tmp_path_factory.mktemp("original") / "records"
    records = Records(folder, TARGET, create=True)
    for sch, seconds in zip(schedules, (3e-3, 1e-3, 2e-3), strict=False):
        records.add(task.func, sch, [seconds])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """The same, to spoil."""
    return Path(shutil.copytree(original, tmp_path / "records"))


def times(records, func):
    return [round(float(record.run_secs[0]) * 1e3) for record in records.measured(func)]


def test_records_are_read_back_in_the_order_in_which_they_were_made(folder, task):
    assert times(Records(folder, TARGET), task.func) == [3, 1, 2]


def test_the_best_record_is_its_schedule(folder, task, schedules):
    best = Records(folder, TARGET).lookup(task.func).schedule
    fastest = schedules[1]
    assert str(best.mod["main"].body) == str(fastest.mod["main"].body)


def test_each_line_is_json_and_on_disk_at_once(folder):
    assert len((folder / WORKLOADS).read_text().splitlines()) == 1
    lines = (folder / RECORDS).read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)[0] == 0 for line in lines)  # of workload 0


def test_a_function_of_the_same_structure_finds_the_records_of_another_network(folder):
    (other,) = tasks(seed=5)
    assert times(Records(folder, TARGET), other.func) == [3, 1, 2]


def test_another_shape_or_number_of_kept_blocks_finds_none(folder):
    for other in (*tasks(size=9), *tasks(density=0.5)):
        assert Records(folder, TARGET).lookup(other.func) is None


def test_records_of_another_number_of_threads_are_none_of_this_one(folder, task, schedules):
    two = Records(folder, replace(TARGET, cores=2), create=True)
    assert two.lookup(task.func) is None and two.measured(task.func) == []
    two.add(task.func, schedules[0], [5e-3])
    assert times(two, task.func) == [5]
    assert times(Records(folder, TARGET), task.func) == [3, 1, 2]


def test_a_workload_is_free_of_the_networks_names(task):
    assert set(workload(task.func)["main"].attrs.keys()) == {"global_symbol", "tirx.noalias", "s_tir"}


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tuning records in"):
        Records(tmp_path, TARGET)
    with pytest.raises(UserError, match="no tuning records in"):
        Records(tmp_path / "missing", TARGET)


def test_an_empty_folder_is_made_when_asked(tmp_path, task):
    assert Records(tmp_path / "a" / "b", TARGET, create=True).lookup(task.func) is None
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("cut", [1, 2, 100, -5])  # bytes at the end; negative: all but so many of the last line
def test_a_last_line_that_is_cut_off_is_refused_to_read_and_dropped_to_write(folder, task, schedules, cut):
    path = folder / RECORDS
    whole = path.read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    path.write_bytes(whole[:-cut] if cut > 0 else whole[: last - cut])
    with pytest.raises(UserError, match=r"the last line of .* is cut off") as caught:
        Records(folder, TARGET)
    assert "\n" not in str(caught.value)
    repaired = Records(folder, TARGET, create=True)
    assert path.read_bytes() == whole[:last]
    assert times(repaired, task.func) == [3, 1]
    repaired.add(task.func, schedules[2], [2e-3])
    assert times(Records(folder, TARGET), task.func) == [3, 1, 2]


def test_a_workload_that_is_cut_off_is_dropped_too(folder, task):
    (other,) = tasks(size=9)
    Records(folder, TARGET, create=True).add(other.func, Space(other.func, TARGET).schedules[0], [1e-3])
    path = folder / WORKLOADS
    path.write_bytes(path.read_bytes()[:-40])
    # The record comes after its workload.
    (folder / RECORDS).write_bytes(b"".join((folder / RECORDS).read_bytes().splitlines(keepends=True)[:3]))
    records = Records(folder, TARGET, create=True)
    assert times(records, task.func) == [3, 1, 2] and records.lookup(other.func) is None


@pytest.mark.parametrize("garbage", [b"not json\n", b"\xff\xfe\x00\n", b"\n"])
@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("name", [WORKLOADS, RECORDS])
def test_damage_in_the_middle_is_never_repaired(folder, garbage, create, name):
    path = folder / name
    damaged = garbage + path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"line 1 of .* is damaged"):
        Records(folder, TARGET, create=create)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("line", ["{}", "3", "null", "[7, [[], [], {}, []]]", "[0, []]", "[-1, [[], [], {}, []]]"])
def test_json_that_is_no_record_is_told_in_a_sentence(folder, line):
    (folder / RECORDS).write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"line 1 of .* is damaged") as caught:
        Records(folder, TARGET)
    assert "\n" not in str(caught.value)


def test_a_search_without_time_leaves_a_folder_that_can_be_opened(tmp_path, task):
    Records(tmp_path / "records", TARGET, create=True)
    assert Records(tmp_path / "records", TARGET).lookup(task.func) is None


def add_times(folder, func, schedule, times):
    """A tuner: opens the records, and adds."""
    records = Records(folder, TARGET, create=True)
    for each in times:
        records.add(func, schedule, [each])


def started(*arguments) -> multiprocessing.Process:
    """A process that runs `add_times`."""
    process = multiprocessing.get_context("fork").Process(target=add_times, args=arguments)
    process.start()
    return process


def test_two_tuners_at_once_share_a_log(tmp_path, task, schedules):
    (other,) = tasks(size=9)
    of_other = Space(other.func, TARGET).schedules[0]
    first, second = ([(start + i) * 1e-3 for i in range(40)] for start in (1, 101))
    tuners = [started(tmp_path, task.func, schedules[0], first), started(tmp_path, other.func, of_other, second)]
    for tuner in tuners:
        tuner.join()
        assert tuner.exitcode == 0
    records = Records(tmp_path, TARGET)
    assert len(records.workloads) == 2
    assert times(records, task.func) == list(range(1, 41)) and times(records, other.func) == list(range(101, 141))
    assert records.measured(other.func)[0].workload.mod["main"].params[0].shape[1] == 9


def test_a_tuner_that_is_killed_while_another_writes_costs_no_record(tmp_path, task, schedules):
    """Whatever is whole when the one is killed stays, and the other goes on."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        victim = started(folder, task.func, schedules[0], [1e-3] * 100_000)
        other = started(folder, task.func, schedules[1], [2e-3] * 30)
        while not (folder / RECORDS).exists() or (folder / RECORDS).read_bytes().count(b"\n") < 5 + attempt:
            assert victim.is_alive()
        victim.kill()
        victim.join()
        whole = [line for line in (folder / RECORDS).read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        other.join()
        assert other.exitcode == 0
        assert (folder / RECORDS).read_bytes().startswith(b"".join(whole))
        assert times(Records(folder, TARGET, create=True), task.func).count(2) == 30


def test_a_line_that_another_tuner_left_unfinished_is_dropped_by_one_that_has_the_log_open(folder, task, schedules):
    records = Records(folder, TARGET, create=True)
    whole = (folder / RECORDS).read_bytes()
    with open(folder / RECORDS, "ab") as file:
        file.write(whole[:1000])
    records.add(task.func, schedules[0], [4e-3])
    assert (folder / RECORDS).read_bytes().startswith(whole)
    assert times(records, task.func) == times(Records(folder, TARGET), task.func) == [3, 1, 2, 4]


def test_a_tuner_sees_what_another_has_added(folder, task, schedules):
    records = Records(folder, TARGET, create=True)
    Records(folder, TARGET, create=True).add(task.func, schedules[0], [4e-3])
    assert times(records, task.func) == [3, 1, 2, 4]


def test_a_log_that_loses_lines_while_it_is_open_is_told(folder, task, schedules):
    records = Records(folder, TARGET, create=True)
    (folder / RECORDS).write_bytes(b"")
    with pytest.raises(UserError, match="lost lines while it was in use"):
        records.add(task.func, schedules[0], [4e-3])


def test_a_reader_waits_for_the_line_that_is_being_written(folder, task):
    whole = (folder / RECORDS).read_bytes()
    with locked(folder, write=True):
        (folder / RECORDS).write_bytes(whole[:-30])
        reading = ThreadPoolExecutor(1).submit(Records, folder, TARGET)
        assert not wait([reading], timeout=0.2).done
        (folder / RECORDS).write_bytes(whole)
    assert times(reading.result(), task.func) == [3, 1, 2]


def test_records_in_a_folder_that_cannot_be_written_are_read(original, tmp_path, task):
    folder = Path(shutil.copytree(original, tmp_path / "shipped"))
    (folder / LOCK).unlink()
    assert times(Records(folder, TARGET), task.func) == [3, 1, 2]
    assert not (folder / LOCK).exists()


def test_metaschedules_own_database_reads_the_records(folder, task):
    database = ms.database.JSONDatabase(str(folder / WORKLOADS), str(folder / RECORDS))
    assert sorted(float(record.run_secs[0]) for record in database.get_all_tuning_records()) == [1e-3, 2e-3, 3e-3]
    assert database.has_workload(workload(task.func))
