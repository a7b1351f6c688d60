#!/usr/bin/env python
"""Compiles networks for Cortex-A76, bundles them, and runs each bundle's `run.sh --check` as on a board with Debian 11,
under QEMU.

    python scripts/check_boards.py    ResNet-18 and MobileNetV1, 1x16 at 75 % and dense, to results/boards_emulated.csv

QEMU and Debian's libraries are fetched as for the tests (tests/end_to_end/arm64_root.py). Columns: network, size (of
the image, in pixels), n and sparsity (of the mask; 0 is a dense network), target, precision, max_abs_error (to PyTorch
on this machine, of outputs of about unit scale), limit, so_bytes, bundle_bytes, check ('ok', or what went
wrong). Exits with 1 if a check fails.
"""

import csv
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import click

sys.path.append(str(Path(__file__).parent.parent / "tests" / "end_to_end"))
import arm64_root

COLUMNS = (
    "network",
    "size",
    "n",
    "sparsity",
    "target",
    "precision",
    "max_abs_error",
    "limit",
    "so_bytes",
    "bundle_bytes",
    "check",
)
N = 16


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--target", default="cortex-a76", show_default=True, help="CPU to compile for, and to emulate.")
@click.option("--precision", default="float32", show_default=True, help="Of the numbers inside.")
@click.option("--size", default=224, show_default=True, help="Of the image, in pixels.")
@click.option(
    "--output",
    default=Path("results/boards_emulated.csv"),
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
def command(networks, target, precision, size, output):
    """Check bundles of networks under emulation."""
    try:
        under = shlex.join(arm64_root.emulated(arm64_root.root(), target))
    except arm64_root.Unavailable as reason:
        raise click.ClickException(str(reason)) from None
    rows = []
    for network in networks or ("resnet18", "mobilenet_v1"):
        for sparsity in (0.75, 0.0):
            rows.append(checked(network, size, sparsity, target, precision, under))
            click.echo(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            write(output, rows)
    sys.exit(0 if all(row["check"] == "ok" for row in rows) else 1)


def checked(network: str, size: int, sparsity: float, target: str, precision: str, under: str) -> dict:
    """The row of one network."""
    with tempfile.TemporaryDirectory() as folder:
        library, bundle = Path(folder, "net.so"), Path(folder, "net.tar.gz")
        asked = ["--n", N, "--sparsity", sparsity, "--size", size, "--target", target, "--precision", precision]
        subp("compile", network, *asked, "-o", library)
        subp("bundle", library, "-o", bundle)
        with tarfile.open(bundle) as archive:
            archive.extractall(folder, filter="data")
        run = [str(Path(folder, "net", "run.sh")), "--check", "--json"]
        done = subprocess.run(run, env=os.environ | {"RUN_UNDER": under}, capture_output=True, text=True)
        said = (
            json.loads(done.stdout) if done.stdout else {"check": done.stderr.strip(), "max_abs_error": "", "limit": ""}
        )
        sizes = {"so_bytes": library.stat().st_size, "bundle_bytes": bundle.stat().st_size}
    return {
        "network": network,
        "size": size,
        "n": N if sparsity else "",
        "sparsity": sparsity,
        "target": target,
        "precision": precision,
        **{key: said[key] for key in ("check", "max_abs_error", "limit")},
        **sizes,
    }


def write(path: Path, rows: list[dict]) -> None:
    """The rows as CSV; an existing file is replaced by a whole one."""
    temporary = path.with_suffix(".part")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def subp(*arguments) -> None:
    """Runs a command line of ours, which tells what fails itself."""
    done = subprocess.run(
        [sys.executable, "-c", "from subp.cli import main; main()", *map(str, arguments)], stdout=subprocess.DEVNULL
    )
    if done.returncode:
        raise click.ClickException(f"'subp {' '.join(map(str, arguments))}' failed")


if __name__ == "__main__":
    command()
