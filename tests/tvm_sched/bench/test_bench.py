"""Measuring: what counts, in which order, and that one candidate leaves nothing behind for the next."""

import gc
import os
import subprocess
import sys
import time
from functools import partial
from itertools import groupby

import pytest

from tvm_sched.bench import latency
from tvm_sched.bench.latency import Candidate, Timing, measure

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")


def logging_candidates(names: str, log: list[str]) -> dict[str, Candidate]:
    return {name: Candidate(partial(log.append, name), partial(log.append, f"prepare {name}")) for name in names}


def test_timing_holds_median_90th_percentile_and_minimum():
    timing = Timing.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    assert (timing.median_ms, timing.p90_ms, timing.min_ms, timing.runs) == (6.0, 10.0, 1.0, 11)


def test_times_are_milliseconds_of_one_call():
    timing = measure({"sleep": Candidate(lambda: time.sleep(0.02))}, seconds=0.3, rounds=3)["sleep"]
    assert 20 <= timing.min_ms <= timing.median_ms <= timing.p90_ms
    assert timing.min_ms < 40


def test_candidates_take_turns_and_each_leads_a_round():
    log = []
    measure(logging_candidates("abc", log), seconds=0.09, rounds=3)
    prepared = [entry[-1] for entry in log if entry.startswith("prepare")]
    assert prepared == list("abc" + "bca" + "cab")
    bursts = [name for name, _ in groupby(entry for entry in log if not entry.startswith("prepare"))]
    assert bursts == prepared


def test_a_burst_begins_with_a_call_that_does_not_count():
    calls = []
    first_is_slow = Candidate(lambda: calls.append(time.sleep(0.001 if calls else 0.05)))
    timing = measure({"a": first_is_slow}, seconds=0.1, rounds=1)["a"]
    assert timing.runs < len(calls)
    assert timing.p90_ms < 40


def test_slow_candidates_still_get_three_rounds_and_no_more():
    timing = measure({"a": Candidate(lambda: time.sleep(0.02))}, seconds=0.001, rounds=10)["a"]
    assert timing.runs == 3


def test_fast_candidates_are_repeated_for_the_time_given():
    start = time.perf_counter()
    timing = measure({"a": Candidate(lambda: None)}, seconds=0.2, rounds=4)["a"]
    assert timing.runs > 1000
    assert 0.15 < time.perf_counter() - start < 60


@needs_affinity
def test_a_candidate_that_binds_the_thread_does_not_bind_the_next():
    before = os.sched_getaffinity(0)
    one = {min(before)}
    seen = []
    bind, look = lambda: os.sched_setaffinity(0, one), lambda: seen.append(os.sched_getaffinity(0))
    measure({"binds": Candidate(lambda: None, prepare=bind), "looks": Candidate(look)}, seconds=0.01, rounds=3)
    assert all(cpus == before for cpus in seen)
    measure({"binds": Candidate(lambda: None, prepare=bind)}, seconds=0.01)
    assert os.sched_getaffinity(0) == before


def test_garbage_collection_is_off_in_timed_calls_and_on_again_after():
    collecting = []
    measure({"a": Candidate(lambda: collecting.append(gc.isenabled()))}, seconds=0.01, rounds=1)
    assert collecting[-1] is False
    assert gc.isenabled()


def test_an_exception_ends_the_measurement_with_everything_set_back():
    with pytest.raises(ZeroDivisionError):
        measure({"a": Candidate(lambda: 1 / 0)}, seconds=0.01)
    assert gc.isenabled()


@needs_affinity
def test_pinned_binds_within_the_block_only():
    before = os.sched_getaffinity(0)
    with latency.pinned([max(before)]):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_threads_of_tvm_are_not_tied_by_the_first_measurement():
    """In a process of its own, where no pool is there before."""
    code = (
        "import os, tvm_sched; from tvm_sched import runtime; from tvm_sched.bench import latency\n"
        "cpus = os.sched_getaffinity(0)\n"
        "with latency.pinned([min(cpus)]): runtime.set_threads(runtime.most_threads())\n"
        "assert all(os.sched_getaffinity(int(thread)) == cpus for thread in os.listdir('/proc/self/task'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_affinity
def test_fastest_cpus_prefers_big_cores(tmp_path):
    cpus = latency.usable_cpus()
    big = cpus[-1]
    for cpu in cpus:
        (tmp_path / f"cpu{cpu}").mkdir()
        (tmp_path / f"cpu{cpu}" / "cpu_capacity").write_text("1024\n" if cpu == big else "400\n")
    assert latency.fastest_cpus(1, root=tmp_path) == [big]
    assert sorted(latency.fastest_cpus(len(cpus) + 5, root=tmp_path)) == cpus


def test_fastest_cpus_goes_by_number_where_the_system_does_not_tell(tmp_path):
    assert latency.fastest_cpus(1, root=tmp_path) == latency.usable_cpus()[:1]


def test_machine_state_names_the_cpu_and_its_cores():
    machine = latency.MachineState.now()
    assert machine.cpu and machine.cpu in str(machine)
    assert machine.cores == len(latency.usable_cpus())


def test_a_machine_on_which_programs_wait_is_not_quiet():
    busy = latency.waiting_share("some avg10=26.50 avg60=13.11 avg300=26.03 total=1449328879\nfull avg10=0.00\n")
    idle = latency.waiting_share("some avg10=0.41 avg60=13.11 avg300=26.03 total=1449328879\n")
    assert (busy, idle) == pytest.approx((0.265, 0.0041))
    assert latency.waiting_share("") is None
    noisy, quiet, unknown = (latency.MachineState("cpu", 2, [], None, 0.0, share) for share in (busy, idle, None))
    assert "NOT QUIET" in str(noisy) and "26%" in str(noisy)
    assert quiet.quiet and unknown.quiet and "QUIET" not in str(quiet)
