"""A network compiled and bundled for a Cortex-A76 runs on Debian 11 for arm64, as far as an emulator tells.
`scripts/check_boards.py` does the same with whole networks.
"""

import json
import os
import shlex
import subprocess
import tarfile

import arm64_root
import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile
from torch import nn
from zeros import calibrate, prune

import tvm_sched
from subp import cli
from subp_contract.errors import UserError
from tvm_sched.deploy import toolchain, wheels


@pytest.fixture(scope="module")
def network():
    """A dense stem, a 1x16 sparse 3x3 convolution (Winograd's), a depthwise one, a 1x16 sparse 1x1 one, and a
    classifier.
    """
    torch.manual_seed(0)
    winograds, depthwise = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1, groups=64)
    body = [nn.Conv2d(3, 32, 3, 2, 1), winograds, depthwise, nn.Conv2d(64, 64, 1)]
    layers = [each for conv in body for each in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    sparse = prune(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), 16, 0.25)
    return calibrate(sparse, torch.randn(8, 3, 32, 32))


@pytest.fixture(scope="module")
def bundle(network, debian_11, tmp_path_factory):
    """The folder on the board."""
    try:
        toolchain.program_compiler("aarch64")
        wheels.runtime_files("aarch64")
    except UserError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("board")
    artifact = tvm_sched.compile(network, torch.zeros(1, 3, 32, 32), target="cortex-a76")
    artifact.save(folder / "net.so")
    assert cli.exit_code(["bundle", str(folder / "net.so"), "-o", str(folder / "net-a76.tar.gz")]) == 0
    with tarfile.open(folder / "net-a76.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "net-a76"


@pytest.fixture
def run(bundle, debian_11):
    """run(*arguments): what run.sh prints on the emulated board."""

    def run(*arguments) -> str:
        environment = os.environ | {"RUN_UNDER": shlex.join(debian_11)}
        return subprocess.run(
            [bundle / "run.sh", *map(str, arguments)], env=environment, check=True, capture_output=True, text=True
        ).stdout

    return run


def test_the_check_passes(run):
    said = json.loads(run("--check", "--json"))
    assert said["check"] == "ok" and said["max_abs_error"] < 1e-4


def test_outputs_are_pytorchs(run, network, tmp_path):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    np.save(tmp_path / "x.npy", x.numpy())
    run(tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    with torch.no_grad():
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), network(x).numpy(), rtol=0, atol=1e-4)


def test_a_benchmark_runs(run):
    assert json.loads(run("--bench", "--seconds", 0, "--json"))["calls"] == 10


def test_without_apt_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(arm64_root, "CACHE", tmp_path)
    monkeypatch.setattr(arm64_root.shutil, "which", lambda program: None)
    with pytest.raises(arm64_root.Unavailable, match=r"no apt-get here to fetch Debian's libstdc\+\+6 with"):
        arm64_root.root()


def binaries(bundle):
    return [bundle / "net.so", bundle / "bin" / "runner", *(bundle / "lib").iterdir()]


def test_every_file_is_for_debian_11(bundle):
    assert "WARNING" not in toolchain.runs_with(*binaries(bundle))


def test_every_file_can_be_loaded_where_pages_are_of_16_or_64_kb(bundle):
    for path in binaries(bundle):
        with open(path, "rb") as file:
            assert all(segment["p_align"] >= 1 << 16 for segment in ELFFile(file).iter_segments("PT_LOAD"))
