#!/usr/bin/env python
"""Writes the small files by which later versions are tested: those of this version, and the numbers that they give.

    python scripts/write_fixtures.py                      tests/fixtures/VERSION
    python scripts/write_fixtures.py --output FOLDER

Run it with the code that is released, once for each release, and commit what it writes; all such folders are read by
`tests/test_earlier_releases.py`. Of a bundle what its program reads is there, besides `net.so`, and not the program nor
TVM's library, which are large, and which a board may get anew.
"""

import json
import os
import tempfile
from pathlib import Path
from textwrap import dedent

import click
import numpy as np
import torch
import whole_files

import tvm_sched
from subp import cli
from subp.training import checkpoint
from subp_contract.distribution import VERSION
from tvm_sched.deploy import bundle
from tvm_sched.records.database import RECORDS, WORKLOADS
from tvm_sched.signature import check_inputs

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
TARGET = "x86-avx2"
NETWORK = dedent(
    '''
    """A network so small that its files are."""

    from torch import nn


    def net(num_classes, in_channels):
        body = [nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
    '''
).lstrip()
LOG, BUNDLE = "log", "bundle"  # folders: a tuning log, and what a bundle's program reads
KEPT = ("best.jsonl", "forms.jsonl", "target.json", "layers.json", "bench.json", "grid.yaml", "results.csv")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="[tests/fixtures/VERSION]")
def command(output: Path | None) -> None:
    """Write the files by which later versions are tested."""
    folder = (output or FIXTURES / VERSION).resolve()
    folder.mkdir(parents=True)
    write(folder)
    click.echo(f"{folder}: {sum(file.stat().st_size for file in folder.rglob('*')):,} bytes")


def write(folder: Path) -> None:
    """All of them."""
    (folder / "net.py").write_text(NETWORK)
    os.chdir(folder)  # so that no file names a place of this machine's
    code = "net.py:net"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        whole_files.make_records(work)
        whole_files.make_images(work)
        whole_files.make_settings(work)
        run("train", work / "images.zip", "--model", code, "--size", 8, "--epochs", 1, "--n", 4, "-o", work / "run")
        run(
            "quantize",
            work / "run/model.safetensors",
            "--code",
            code,
            "--calibrate",
            work / "images.zip",
            "-o",
            work / "net.pt2",
        )
        for file in (*KEPT, "run/model.safetensors", "run/checkpoint.safetensors", "net.pt2", "images.zip"):
            (folder / Path(file).name).write_bytes((work / file).read_bytes())
        (folder / LOG).mkdir()
        for file in (RECORDS, WORKLOADS):
            (folder / LOG / file).write_bytes((work / file).read_bytes())
    made = tvm_sched.compile(whole_files.sparse_layer(), whole_files.X, target=TARGET, threads=1)
    made.save(folder / "net.so")
    for file, content in bundle.contents(folder / "net.so")[0].items():
        if file == "network.txt" or file.startswith("check/"):
            (folder / BUNDLE / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / BUNDLE / file).write_bytes(content)
    told = {
        "model.safetensors": of_network(folder / "model.safetensors"),
        "net.pt2": of_program(folder / "net.pt2"),
        "net.so": [each.ravel()[::7].tolist() for each in made.run_flat(given(made))],
    }
    (folder / "numbers.json").write_text(json.dumps(told, indent=1))


def run(*words: object) -> None:
    """A command, which must succeed."""
    if code := cli.exit_code([str(word) for word in words]):
        raise SystemExit(code)


def given(artifact: tvm_sched.Artifact) -> list[np.ndarray]:
    """What it is run on."""
    return [np.asarray(each) for each in check_inputs(artifact.signature.inputs, 0)]


def image() -> torch.Tensor:
    """What a network is run on."""
    return torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


def of_network(path: Path) -> list[float]:
    """What the network in a checkpoint gives for `image()`."""
    from subp.deployment import networks

    module, _ = networks.load_coded(path, f"{path.parent / 'net.py'}:net")
    with torch.no_grad():
        return module.eval()(image()).ravel().tolist()


def of_program(path: Path) -> list[float]:
    """What a quantised program gives for it."""
    from subp.common import programs

    program, _ = programs.read(path)
    return program.module(check_guards=False)(image()).ravel().tolist()


def of_run(path: Path) -> int:
    """The epoch after which a run goes on."""
    return checkpoint.load_run(path).metadata["epoch"]


if __name__ == "__main__":
    command()
