"""TVM's runtime is taken from where it is installed, or fetched once."""

import platform
import subprocess
import zipfile
from pathlib import Path

import pytest

from subp_contract.errors import UserError
from tvm_sched.deploy import wheels


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Commands given to a pip that saves wheels of ours, in an empty cache; `fails` is what it says instead."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class Pip(list):
        fails = ""

        def __call__(self, command, **_):
            self.append(command)
            if not self.fails:
                package = command[-1].split("==")[0]
                with zipfile.ZipFile(Path(command[command.index("--dest") + 1], "some.whl"), "w") as wheel:
                    for member in [*wheels.FILES[package].values(), "tvm/lib/libtvm_compiler.so"]:
                        wheel.writestr(member, f"{member} of {command[command.index('--platform') + 1]}")
            return subprocess.CompletedProcess(command, bool(self.fails), "", self.fails)

    pip = Pip()
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return pip


def test_the_installed_runtime_serves_this_machine(pip):
    files = wheels.runtime_files(platform.machine())
    assert set(files) == {"lib/libtvm_runtime.so", "lib/libtvm_ffi.so", "LICENSE.tvm", "NOTICE.tvm"}
    assert all(path.is_file() for path in files.values())
    assert wheels.is_here(platform.machine()) and not pip


def test_another_architectures_is_fetched_once_and_only_the_runtime_kept(pip, tmp_path):
    assert not wheels.is_here("riscv64")
    for _ in range(2):
        files = wheels.runtime_files("riscv64")
    assert len(pip) == 2 and wheels.is_here("riscv64")
    assert files["lib/libtvm_ffi.so"].read_text() == "tvm_ffi/lib/libtvm_ffi.so of manylinux_2_28_riscv64"
    kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["LICENSE", "NOTICE", "libtvm_ffi.so", "libtvm_runtime.so"]


def test_without_a_network_one_sentence_says_so_and_nothing_is_left(pip, tmp_path):
    pip.fails = "WARNING: retrying\nERROR: No matching distribution found"
    with pytest.raises(
        UserError,
        match=r"apache-tvm .* for riscv64 cannot be fetched .* pip says: ERROR: No matching distribution found$",
    ):
        wheels.runtime_files("riscv64")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()] and not wheels.is_here("riscv64")
