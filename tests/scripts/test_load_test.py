"""Threads, forks, workers and new processes at once give the bits that one call gives; memory stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_short_load_is_right():
    command = [sys.executable, "scripts/load_test.py", "--minutes", "0.02", "--loads", "5", "--processes", "1"]
    command += ["--most-growth", "0.1"]  # which minutes tell, not seconds
    environment = os.environ | {"TVM_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (0, "")
    assert "calls in 8 threads" in done.stdout and "1 started processes" in done.stdout
