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
    made = tmp_path_factory.mktemp("sdist")
    build = "from setuptools import build_meta; build_meta.build_sdist(OUT)".replace("OUT", repr(str(made)))
    python("-c", build, cwd=source)
    return next(made.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheels(source, sdist, tmp_path_factory) -> dict[str, Path]:
    """A wheel built of the checkout, and one of its source distribution."""
    made = tmp_path_factory.mktemp("wheels")
    built = {"checkout": source, "sdist": sdist}
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
