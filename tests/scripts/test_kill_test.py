"""A kill in the midst of a report leaves nothing behind; the command kills every job, hundreds of times."""

import atexit
import multiprocessing
import random
import time

import kill_test


def write(folder):
    kill_test.time.sleep(0.05)
    (folder / ".a").write_text("whole")
    (folder / ".a").rename(folder / "a")


def test_a_job_is_killed_and_what_it_leaves_is_looked_at(tmp_path):
    def look(folder):
        assert (folder / "a").read_text() == "whole"

    row = kill_test.tried("job", kill_test.Job(write, ("a",), look), 2, random.Random(0), tmp_path)
    assert (row["kills"], row["failed"]) == (2, 0) and row["before"] + row["old"] + row["new"] == 2


def test_litter_and_a_broken_output_are_faults(tmp_path, capsys):
    def litter(folder):
        (folder / f".{random.getrandbits(64)}").touch()
        write(folder)

    def look(folder):
        raise AssertionError

    row = kill_test.tried("job", kill_test.Job(litter, ("a",), look), 1, random.Random(0), tmp_path)
    assert row["failed"] >= 1 and "not whole" in capsys.readouterr().err


def test_what_a_child_does_at_its_exit_leaves_the_processes_of_its_parent_alone(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    try:
        assert kill_test.forked(lambda folder: atexit._run_exitfuncs(), tmp_path / "job").wait() == 0
        worker.join(0.5)
        assert worker.exitcode is None
    finally:
        worker.kill()
        worker.join()
