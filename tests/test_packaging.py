"""An installed copy has all that a checkout has, and gives the same from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from zeros import prune

HERE = Path(__file__).parents[1]
PACKAGES = ("subp", "subp_contract", "tvm_sched")
LEAVE = shutil.ignore_patterns("__pycache__", "*.so", "*.o", ".lock")


def python(*arguments, **options) -> str:
    """What `python ARGUMENTS` prints."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout to build in, as the build leaves files there."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "tuning_logs"):
        shutil.copytree(HERE / name, folder / name, symlinks=True, ignore=LEAVE)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HERE / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheels(source, tmp_path_factory) -> dict[str, Path]:
    """A wheel built of the checkout, and one of its source distribution."""
    made = tmp_path_factory.mktemp("wheels")
    build = "from setuptools import build_meta; build_meta.build_sdist(OUT)".replace("OUT", repr(str(made)))
    python("-c", build, cwd=source)
    (archive,) = made.glob("*.tar.gz")
    built = {"checkout": source, "sdist": archive}
    for name, what in built.items():
        python("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", made / name, what)
    return {name: next((made / name).glob("*.whl")) for name in built}


@pytest.mark.parametrize("name", ["checkout", "sdist"])
def test_a_wheel_holds_every_file_of_the_packages_and_the_tuning_records(source, wheels, name):
    files = {
        path.relative_to(source) for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()
    }
    records = {Path("tvm_sched") / path.relative_to(source) for path in source.glob("tuning_logs/*/*.jsonl")}
    assert len(records) >= 3
    held = {Path(name) for name in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in name}
    assert held == files | records


def test_an_installed_copy_compiles_as_the_checkout_does(wheels, tmp_path):
    python("-m", "pip", "install", "--no-deps", "--target", tmp_path / "installed", wheels["checkout"])
    torch.manual_seed(0)
    network = prune(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()), 16, 0.25).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 64, 56, 56),)), tmp_path / "net.pt2")
    options = ("--target", "x86-avx512", "--threads", 1, "--explain", "-o", "net.tar")

    def explained(packages: Path) -> str:
        """What `subp compile` prints, but for the error, which differs from run to run."""
        environment = os.environ | {"PYTHONPATH": str(packages)}
        printed = python("-m", "subp", "compile", "net.pt2", *options, cwd=tmp_path, env=environment)
        return printed.partition("net.tar")[0]

    told = explained(tmp_path / "installed")
    assert told == explained(HERE)
    assert "kernels (x86-avx512, 1 thread): 1 of 1 by records" in told
