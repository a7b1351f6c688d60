#!/usr/bin/env python
"""Runs some tests with the lowest, and with the highest, versions that pyproject.toml allows of each dependency.

    python scripts/check_versions.py --work runs/versions
    python scripts/check_versions.py --end lowest --work runs/versions -- tests/cli

Each end has an environment of its own, WORK/lowest and WORK/highest, made by pip. What pyproject.toml names one version
of (PyTorch, TVM) is not installed again but linked from the environment that runs this, which must have it. The lowest
version is the one that a requirement's `>=` names: where pip cannot install all of them together, or a test fails, that
bound is a promise that does not hold. Prints the versions; exit code 1 where anything failed. Needs Python 3.11.
"""

import importlib.metadata
import os
import subprocess
import sys
import venv
from pathlib import Path

import click
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/test_earlier_releases.py",
    "tests/subp_contract",
    "tests/cli/test_report.py",
    "tests/cli/test_onnx.py",
    "tests/subp/training/test_checkpoint.py",
    "tests/tvm_sched/records",
)
ENDS = ("lowest", "highest")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--end", "ends", multiple=True, type=click.Choice(ENDS), help="[both]")
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to work in.")
@click.argument("tests", nargs=-1)
def command(ends: tuple[str, ...], work: Path, tests: tuple[str, ...]) -> None:
    """Run tests with the lowest and the highest versions of the dependencies."""
    failed = [end for end in ends or ENDS if not holds(end, work.resolve() / end, tests or TESTS)]
    sys.exit(f"failed with the {' and the '.join(failed)} versions" if failed else 0)


def holds(end: str, folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass in that environment."""
    venv.create(folder, with_pip=True, clear=True)
    python, wanted = folder / "bin" / "python", requirements()
    pinned = [each for each in wanted if exact(each)]
    linked = folder / "linked"
    linked.mkdir()
    for each in pinned:
        link(each.name, linked)
    (site(python) / "linked.pth").write_text(f"{linked}\n{ROOT}\n")
    others = [each for each in wanted if not exact(each)]
    lines = [str(each) if end == "highest" else lowest(each) for each in others] + needed_by(pinned)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    if subprocess.run([*pip, *lines]).returncode:
        return False
    told = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    names = {each.name.lower().replace("_", "-") for each in wanted}
    kept = [line for line in told.stdout.split() if line.partition("==")[0].lower().replace("_", "-") in names]
    click.echo(f"{end}: {' '.join(kept)}")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    environment |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    run = [str(python), "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(run, cwd=ROOT, env=environment).returncode == 0


def requirements() -> list[Requirement]:
    """Of the package and its tests, where they hold for this Python and system."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    read = [Requirement(line) for line in lines if not line.startswith("subp-cpu")]
    return [each for each in read if each.marker is None or each.marker.evaluate()]


def exact(requirement: Requirement) -> bool:
    """Whether it names one version."""
    return any(each.operator == "==" and "*" not in each.version for each in requirement.specifier)


def lowest(requirement: Requirement) -> str:
    """The requirement of the version that it names as the lowest."""
    version = next(each.version for each in requirement.specifier if each.operator == ">=")
    return f"{requirement.name}=={version}"


def link(name: str, folder: Path) -> None:
    """Links an installed distribution, its modules and what pip knows of it, into the folder."""
    found = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())


def needed_by(linked: list[Requirement]) -> list[str]:
    """What the linked distributions need beside one another."""
    names = {each.name for each in linked}
    needs = [Requirement(line) for each in linked for line in importlib.metadata.requires(each.name) or ()]
    needs = [each for each in needs if each.name not in names and "extra" not in str(each.marker)]
    return [str(each) for each in needs if each.marker is None or each.marker.evaluate()]


def site(python: Path) -> Path:
    """Where the environment's modules lie."""
    words = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())


if __name__ == "__main__":
    command()
