"""Temporary folders: gone in the end, or when the next process needs one; those in use stay."""

import os
import signal
import subprocess
import sys

import pytest

from subp_contract import scratch
from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from subp_contract.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_bytes(b"part")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_held_stays(tmp_path):
    output = tmp_path / "[a].so"
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, output], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    folders = [holder.stdout.readline().strip() for holder in holders]
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    assert all(map(os.path.isdir, folders))
    with scratch_folder(output) as own:
        assert not os.path.exists(folders[0]) and os.path.isfile(f"{folders[1]}/part") and own.parent == tmp_path
    holders[1].kill()
    holders[1].wait()
    with scratch_folder(tmp_path / "other.so"):  # sweeps its own output's alone
        assert os.path.isdir(folders[1])
    with scratch_folder(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_an_output_it_lies_in_tmpdir(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"subp-{os.getuid()}-left{scratch.SUFFIX}"
    left.mkdir()
    with pytest.raises(ValueError, match="as it is"), scratch_folder() as folder:
        assert folder.parent == tmp_path and not left.exists()
        raise ValueError("as it is")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "is_full", lambda folder: True)
    with pytest.raises(UserError, match=f"no room is left in {tmp_path}"), scratch_folder(tmp_path / "a"):
        raise RuntimeError("g++ says something else")
    told = r"no temporary folder can be made in .*missing: No such file"
    with pytest.raises(UserError, match=told), scratch_folder(tmp_path / "missing" / "a"):
        pass
