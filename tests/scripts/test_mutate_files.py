"""Some hundred damaged files of every kind give a sentence or a right answer; the command opens twenty thousand."""

import os
import subprocess
import sys
from pathlib import Path

import mutate_files

ROOT = Path(__file__).parents[2]


def test_damaged_files_are_told_in_a_sentence(tmp_path):
    command = [sys.executable, "scripts/mutate_files.py", "--count", "200", "--work", str(tmp_path / "work")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "TVM_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(",") for line in done.stdout.splitlines()[1:]]
    assert {row[0] for row in rows} == set(mutate_files.FORMATS) and sum(int(row[1]) for row in rows) > 190


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    names = ["target", "suite"]
    monkeypatch.setattr(mutate_files, "_in_child", lambda make, folder: None)
    opened = []

    class Worker:
        def __init__(self, work, seed):
            self.seed = seed

        def opened(self, name, number):
            opened.append((name, number))
            return {"format": name, "number": number, "seed": self.seed, "outcome": "right", "seconds": 0.1, "mib": 1}

        def close(self):
            pass

    monkeypatch.setattr(mutate_files, "Worker", Worker)
    mutate_files.run(4, names, 0, tmp_path)
    rows = mutate_files.run(6, names, 0, tmp_path)
    assert opened == [(name, number) for name in names for number in (0, 1)] + [(name, 2) for name in names]
    assert [(row["format"], row["files"], row["right"], row["failed"]) for row in rows] == [(n, 3, 3, 0) for n in names]
