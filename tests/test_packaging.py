"""An installed copy has all that a checkout has, and gives the same from any folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import torch
from torch import nn
from zeros import prune

from subp import cli
from subp_contract.distribution import NAME, VERSION

HERE = Path(__file__).parents[1]
PACKAGES = ("subp", "subp_contract", "subp_quantizer", "tvm_sched")
BESIDE = ("docs", "examples", "results", "scripts", "tests", "tuning_logs")  # the packages, in a source distribution
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
FILES = (*PAGES, "CITATION.cff", "LICENSE", "MANIFEST.in", "Makefile", "mkdocs.yml", "pyproject.toml")
LEAVE = shutil.ignore_patterns("__pycache__", "*.so", "*.o", ".lock")


def python(*arguments, **options) -> str:
    """What `python ARGUMENTS` prints."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(kind: str, source: Path, folder: Path) -> Path:
    """The sdist or wheel that pip's call of the build makes of a folder."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    return folder / python("-c", code, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout to build in, as the build leaves files there."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, *BESIDE):
        shutil.copytree(HERE / name, folder / name, symlinks=True, ignore=LEAVE)
    for name in FILES:
        shutil.copy(HERE / name, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    """The source distribution."""
    return built("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheels(source, sdist, tmp_path_factory) -> dict[str, Path]:
    """A wheel built of the checkout, and one of its source distribution."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    wheels = {"checkout": source, "sdist": folder}
    return {name: built("wheel", what, tmp_path_factory.mktemp(name)) for name, what in wheels.items()}


@pytest.mark.parametrize("name", ["checkout", "sdist"])
def test_a_wheel_holds_every_file_of_the_packages_and_the_tuning_records(source, wheels, name):
    files = {
        path.relative_to(source) for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()
    }
    records = {Path("tvm_sched") / path.relative_to(source) for path in source.glob("tuning_logs/*/*.jsonl")}
    assert len(records) >= 3
    held = {Path(name) for name in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in name}
    assert held == files | records


def test_a_source_distribution_holds_what_builds_tests_and_documents_it(source, sdist):
    with tarfile.open(sdist) as archive:
        held = {Path(*Path(entry.name).parts[1:]) for entry in archive if entry.isfile()}
    files = {path.relative_to(source) for name in BESIDE for path in (source / name).rglob("*") if path.is_file()}
    assert files | set(map(Path, FILES)) <= held


def test_a_wheel_says_what_it_is_and_its_extras_are_those_that_messages_name(wheels):
    with zipfile.ZipFile(wheels["checkout"]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        told = message_from_bytes(wheel.read(name))
        typed = {name for name in wheel.namelist() if name.endswith("/py.typed")}
    assert (told["Name"], told["Version"], told["License-Expression"]) == (NAME, VERSION, "Apache-2.0")
    assert "Typing :: Typed" in told.get_all("Classifier") and told.get_all("Project-URL")
    assert typed == {f"{package}/py.typed" for package in PACKAGES}
    sources = [path.read_text() for name in PACKAGES for path in (HERE / name).rglob("*.py")]
    pages = [path.read_text() for path in (HERE / "README.md", *(HERE / "docs").rglob("*.md"))]
    named = set(re.findall(r"\binstall\(['\"](\w+)['\"]\)", "".join(sources)))
    typed_out = re.findall(r"pip install '([\w-]+)\[([\w,]+)\]'", "".join(sources + pages))
    assert {name for name, _ in typed_out} == {NAME}
    extras = named | {extra for _, many in typed_out for extra in many.split(",")}
    assert extras <= set(told.get_all("Provides-Extra")) and {"peers", "timm", "tensorboard"} <= extras


def test_an_installed_copy_compiles_as_the_checkout_does(wheels, tmp_path, monkeypatch, capsys):
    options = ("--no-deps", "--no-compile", "--target", tmp_path / "installed")
    python("-m", "pip", "install", *options, wheels["checkout"])
    torch.manual_seed(0)
    network = prune(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()), 16, 0.25).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 64, 56, 56),)), tmp_path / "net.pt2")
    command = ["compile", "net.pt2", "--target", "x86-avx512", "--threads", "1", "--explain", "-o", "net.tar"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    told = python("-m", "subp", *command, cwd=tmp_path, env=environment).partition("net.tar")[0]
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(command) == 0
    assert told == capsys.readouterr().out.partition("net.tar")[0]  # the error differs from run to run
    assert "kernels (x86-avx512, 1 thread): 1 of 1 by records" in told
