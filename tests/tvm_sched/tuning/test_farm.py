"""A farm of boards: measured in parallel, what fails is named and left out, what is measured is kept."""

import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import boards
import pytest
from boards import Board, Killing, distinct, network, records, silent_board
from tvm import rpc
from tvm.s_tir.meta_schedule.runner import RunnerResult

import tvm_sched
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.tuning import farm, farm_worker, measuring, tiles, timing
from tvm_sched.tuning.farm import Farm, NoDevices
from tvm_sched.tuning.tracker import Tracker

TRIALS = 8
PATIENCE_S = 300  # where a device does come


@pytest.fixture(scope="module")
def tracker():
    with boards.running_tracker() as address:
        yield address


def tune(folder, runner, trials=TRIALS):
    return tvm_sched.tune(*network(), threads=1, records=folder, trials=trials, farm=runner)


def test_one_board_hangs_one_dies_and_the_third_measures_all_that_is_left(tracker, tmp_path):
    with Board(tracker, "three") as good, Board(tracker, "three") as victim, silent_board(tracker, "three") as silent:
        runner = Killing(
            victim, tracker, "three", kills={1: lambda: None}, connect_s=5, timeout_s=PATIENCE_S, patience_s=PATIENCE_S
        )
        assert runner.jobs == 3
        summary = tune(tmp_path, runner)
    (task,) = summary.tasks
    assert (summary.failed, task.measured) == (0, TRIALS)
    assert distinct(tmp_path) >= TRIALS  # other forms of the layer besides
    assert len(records(tmp_path)) == sum(history.measured for history in runner.histories.values())
    assert any(f"device {silent} did not answer in 5 s; it is left out" in sentence for sentence in runner.said)
    assert any(
        f"device {victim.device} " in sentence and "left out until it answers again" in sentence
        for sentence in runner.said
    )
    assert runner.histories[victim.device].measured == 1 and runner.histories[good.device].measured >= TRIALS - 1
    assert [line.split(":")[1].split()[0] for line in runner.summary()] == sorted(
        str(each.port) for each in runner.histories
    )


def test_a_board_that_comes_back_is_used_again_and_without_any_the_search_ends_in_a_sentence(tracker, tmp_path):
    def give_up_soon():
        runner.patience_s = 1

    with Board(tracker, "one") as board:
        returning = threading.Thread(target=board.start)
        runner = Killing(
            board,
            tracker,
            "one",
            kills={1: returning.start, 3: give_up_soon},
            timeout_s=PATIENCE_S,
            patience_s=PATIENCE_S,
        )
        with pytest.raises(NoDevices) as caught:
            tune(tmp_path, runner)
        returning.join()
    out, back, out_again = runner.said
    assert all(sentence.startswith(f"device {board.device} ") for sentence in runner.said)
    assert (
        "left out until it answers again" in out
        and back.endswith("answers again")
        and "left out until it answers again" in out_again
    )
    kept = len(records(tmp_path))  # a measurement may end before the board is dead
    assert kept == runner.histories[board.device].measured >= 3
    assert distinct(tmp_path) >= 2  # the default is looked at again
    sentence = str(caught.value)
    assert "\n" not in sentence and f"{board.device} " in sentence
    assert (
        "no device of key 'one' has answered for 1 s" in sentence
        and f"{kept} measurements are kept in {tmp_path}" in sentence
    )


def test_a_board_flushes_weights_alone(tracker):
    with Board(tracker, "flushing"), Tracker(tracker).request("flushing") as request:
        lease = request.wait(PATIENCE_S)
        session = rpc.connect(lease.device.host, lease.device.port, lease.matchkey)
        assert farm_worker.knows(session, timing.FLUSH_WEIGHTS) and not farm_worker.knows(session, "subp.another")


KERNELS = {
    "crashes": "#include <stdlib.h>\nint __tvm_ffi_main(void *self, void *args, int count, void *result) { abort(); }",
    "never returns": "int __tvm_ffi_main(void *self, void *args, int count, void *result) { for (;;); }",
    "does nothing": "int __tvm_ffi_main(void *self, void *args, int count, void *result) { return 0; }",
}


@pytest.fixture
def kernel(tmp_path):
    """What a runner takes, of a kernel by its name in KERNELS."""
    imported = torch_export.from_torch(*network())
    (task,) = tiles.tasks_of(pipeline.fused(imported, Compilation(targets.host())))
    arguments = tmp_path / "arguments.npz"
    timing.save_arguments(arguments, measuring.arguments(task.func))

    def made(name):
        library = tmp_path / f"{name.replace(' ', '_')}.so"
        if name in KERNELS:
            command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
            subprocess.run(command, input=KERNELS[name].encode(), check=True)
        else:
            library.write_bytes(b"no library at all")
        return measuring.Job(str(library), str(arguments))

    return made


def test_what_a_kernel_does_is_no_fault_of_the_board_and_too_few_threads_are(tracker, kernel, monkeypatch):
    monkeypatch.setattr(farm, "LONGEST_PAUSE_S", 0.1)
    said = []
    with (
        Board(tracker, "kernels") as board,
        Farm(tracker, "kernels", timeout_s=6, patience_s=PATIENCE_S, say=said.append) as runner,
    ):
        bad = runner.submit(kernel("is garbage")).result()
        endless = runner.submit(kernel("never returns")).result()
        assert not said
        assert bad.run_secs is None and bad.error_msg
        assert endless.run_secs is None and "RPCSessionTimeoutError" in endless.error_msg
        crash = runner.submit(kernel("crashes")).result()
        assert crash.run_secs is None and f"lost on {farm.ATTEMPTS} attempts" in crash.error_msg
        assert any("left out until it answers again" in sentence for sentence in said)
        good = runner.submit(kernel("does nothing")).result()
        assert (
            good.error_msg is None and len(good.run_secs) == 15 and all(0 <= float(each) < 1 for each in good.run_secs)
        )
        assert "answers again" in said[-1]
        runner.threads = 2  # the board has one
        refused = runner.submit(kernel("does nothing"))
        while not said[-1].startswith(
            f"device {board.device} runs no more than 1 threads, and 2 are asked for; it is left out"
        ):
            assert not refused.done()
            time.sleep(0.05)
    assert isinstance(refused.exception(), NoDevices)


def test_all_results_are_told_before_what_stops_the_runner():
    failed = Future()
    failed.set_exception(NoDevices("gone"))
    futures = [measuring.done(RunnerResult([1.0], None)), failed, measuring.done(RunnerResult(None, "why\nit failed"))]

    class Told(measuring.Measurer):
        def submit(self, func, sch):
            return futures[sch]

    measurer, told = Told(targets.host(), runner=None), {}
    with pytest.raises(NoDevices, match="gone"):
        for number, result in measurer.measure(None, [0, 1, 2]):
            told[number] = result
    assert sorted(told) == [0, 2] and (measurer.failed, measurer.first_error) == (1, "it failed")


def test_answers_that_come_together_are_both_seen(monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nprint('{{}}\\n[1]\\n[2]', flush=True)\ninput()\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    worker = farm.Worker()
    worker.start()
    assert (worker.answer(60), worker.answer(60)) == ([1], [2])
    with pytest.raises(TimeoutError):
        worker.answer(0.5)
