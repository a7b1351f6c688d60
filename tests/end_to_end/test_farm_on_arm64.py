"""A real search for Cortex-A76 from this machine, on a board that is emulated, dies in the middle, and comes back.

    python -m pytest -n0 -m slow tests/end_to_end/test_farm_on_arm64.py

The board is Debian 12 for arm64 with its own Python and the wheels of TVM, under QEMU (arm64_root.py); it has no
compiler. What it measures are times of the emulator and mean nothing.
"""

import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import arm64_root
import boards
import pytest
from boards import Board, Killing, distinct, network, records

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.deploy import toolchain

pytestmark = pytest.mark.slow
PYTHON = "3.11"  # of Debian 12
TRIALS = 4


def site_packages() -> Path:
    """What a board installs, for arm64: `pip install apache-tvm apache-tvm-ffi psutil`, kept in the user's cache.
    Raises Unavailable.
    """
    packages = [f"{name}=={version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "psutil")]
    folder = arm64_root.CACHE.parent / f"board-{'-'.join(each.split('==')[1] for each in packages)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            platforms = [f"--platform={each}_aarch64" for each in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
            options = ["--only-binary=:all:", "--python-version", PYTHON, "--no-compile", "--target", f"{made}/site"]
            command = [sys.executable, "-m", "pip", "install", "--quiet", *platforms, *options, *packages]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise arm64_root.Unavailable(
                    f"pip cannot fetch wheels for arm64: {done.stderr.strip().splitlines()[-1]}"
                )
            Path(made, "site").rename(folder)
    return folder


@pytest.fixture
def board():
    """An emulated board at a tracker, not yet started."""
    try:
        toolchain.linker(targets.CORTEX_A76)
        site, root = site_packages(), arm64_root.root(("python3", "libstdc++6"), "bookworm")
        command = [*arm64_root.emulated(root), str(root / f"usr/bin/python{PYTHON}")]
    except (arm64_root.Unavailable, UserError) as reason:
        pytest.skip(str(reason))
    with boards.running_tracker() as tracker:
        board = Board(tracker, "emulated-a76", command, PYTHONHOME=str(root / "usr"), PYTHONPATH=str(site))
        try:
            yield board
        finally:
            board.kill()


def test_a_board_that_dies_in_the_middle_and_comes_back_loses_nothing(board, tmp_path):
    board.start()
    returning = threading.Thread(target=board.start)
    runner = Killing(
        board,
        board.tracker,
        board.key,
        kills={1: returning.start},
        connect_s=120,
        timeout_s=600,
        patience_s=boards.START_S,
    )
    summary = tvm_sched.tune(*network(), target="cortex-a76", threads=1, records=tmp_path, trials=TRIALS, farm=runner)
    returning.join()
    assert (summary.failed, summary.tasks[0].measured) == (0, TRIALS)
    assert distinct(tmp_path) >= TRIALS  # other forms of the layer besides
    assert len(records(tmp_path)) == runner.histories[board.device].measured
    assert all(record[2]["keys"][0] == "cortex-a76" for _, record in records(tmp_path))
    assert [sentence.split()[1] for sentence in runner.said] == [str(board.device)] * 2
    assert "left out until it answers again" in runner.said[0] and runner.said[1].endswith("answers again")
    module, x = network()
    assert [
        row.schedule for row in tvm_sched.compile(module, x, target="cortex-a76", threads=1, records=tmp_path).explain()
    ] == ["record"]
