"""A record's kernel is held against the default schedule's once, and left out where its numbers are wrong."""

import os
import signal
import time
from dataclasses import replace

import pytest
import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule
from whole_files import X, one_core, sparse_layer, task

import tvm_sched
from subp_contract.errors import Notice
from tvm_sched import compiler
from tvm_sched.records.database import Records, workload
from tvm_sched.records.fastest import write_best
from tvm_sched.tuning.tiles import Space
from tvm_sched.verification import recorded_kernels
from tvm_sched.verification.recorded_kernels import RecordedKernels


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A folder of one record, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "records"
    Records(folder, one_core(), create=True).add(task().func, Space(task().func, one_core()).schedules[1], [1e-3])
    write_best(folder, folder)
    return folder


def of_other_numbers(schedule):
    """The same schedule of a function that clips at a quarter, not at zero."""
    body = tvm_ffi.structural_map(
        schedule.mod["main"].body,
        (tirx.Max, lambda each: tirx.Max(each.a, tirx.const(0.25, "float32"))),
    )
    func = schedule.mod["main"]
    return Schedule(workload(tirx.PrimFunc(func.params, body, func.ret_type)))


def test_a_record_with_other_numbers_is_named_and_left_out_without_the_networks_check(records, monkeypatch):
    known = compiler.open_records(records, one_core())
    found = known.known(task().func)
    wrong = replace(found, replay=lambda: of_other_numbers(found.schedule), trace=[*found.trace[:1], ["other"]])
    monkeypatch.setattr(type(known), "known", lambda *_: wrong)
    told = f"line 1 of {records}/.* is left out: its kernel's output differs from the default schedule by 2"
    monkeypatch.setattr("tvm_sched.records.traces.fault", lambda trace: "")  # of the trace, which is not replayed
    with pytest.warns(Notice, match=told):
        artifact = tvm_sched.compile(sparse_layer(), X, threads=1, records=records, check=False)
    assert list(artifact.schedules()) == ["default"]
    assert not recorded_kernels.file().exists()


def test_a_right_one_is_looked_at_once(records, monkeypatch):
    known = compiler.open_records(records, one_core())
    assert known.lookup(task().func) is not None and len(recorded_kernels.known()) == 1
    monkeypatch.setattr(recorded_kernels, "built", None)
    again = RecordedKernels(one_core())
    found = known.known(task().func)
    assert again.fault(task().func, found) == ""
    other = replace(found, trace=[found.trace[0], [*found.trace[1], "other"]])
    why = again.fault(task().func, other)
    assert "cannot be checked" in why
    monkeypatch.setattr(again, "difference", None)  # a wrong one is looked at once as well, in a process
    assert again.fault(task().func, other) == why


def test_code_that_crashes_hangs_or_writes_elsewhere_harms_nobody(monkeypatch):
    monkeypatch.setattr(recorded_kernels, "LONGEST_S", 1)
    for harm in (lambda: os.kill(os.getpid(), signal.SIGSEGV), lambda: time.sleep(20), lambda: 1 / 0):
        assert recorded_kernels.in_child(harm) == "its kernel crashes, or does not end"
    assert recorded_kernels.in_child(lambda: "") == ""
    handler = signal.signal(signal.SIGALRM, lambda *_: None)  # a user's, which the process that looks does not call
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        assert recorded_kernels.in_child(lambda: time.sleep(5) or "") == "its kernel crashes, or does not end"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.signal(signal.SIGALRM, handler)
    assert "beyond" in recorded_kernels.fault_of([], True, [], [])


def test_those_of_the_package_are_not_looked_at():
    assert compiler.open_records(None, replace(one_core(), name="x86-avx2", family="x86-avx2")).wrong is None
