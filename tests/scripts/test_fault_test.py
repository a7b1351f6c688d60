"""On a full disk and in a read-only folder a command leaves what was there; the script tries all jobs in all places."""

import random

import pytest
from fault_test import PLACES, guarded, may_mount, tried
from kill_test import Job

from subp_contract.files import write_atomically

CONTENT = b"whole" * 10_000


def look(folder):
    assert (folder / "a").read_bytes() == CONTENT


def careful(folder):
    write_atomically(folder / "a", CONTENT)


def careless(folder):
    (folder / "a").write_bytes(CONTENT)


@pytest.fixture
def work(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("no disk can be mounted here")
    (tmp_path / "tmp").rmdir()
    return tmp_path


@pytest.mark.parametrize("place", ["full output", "read-only output", "full TMPDIR"])
def test_old_or_new(work, place):
    (row,) = tried("run", Job(guarded(careful), ("a",), look), (place,), 2, random.Random(0), work)
    assert place in PLACES and row["failed"] == 0 and row["done" if "TMPDIR" in place else "refused"] == 2


def test_a_spoilt_output_is_a_fault(work, capfd):
    (row,) = tried("run", Job(guarded(careless), ("a",), look), ("full output",), 2, random.Random(0), work)
    assert row["failed"] >= 1 and "the old output is another" in capfd.readouterr().err
