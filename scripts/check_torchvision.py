#!/usr/bin/env python
"""Compiles torchvision's classification networks with random weights and compares each with PyTorch.

    python scripts/check_torchvision.py                       all of them, a row each, to results/torchvision.csv
    python scripts/check_torchvision.py resnet18 vit_b_16     only these
    python scripts/check_torchvision.py --sparsity 0          dense

Columns: network, sparsity, layers (convolutions and linear layers), sparse (those that skip blocks), max_error (absolute, to PyTorch), scale
(largest output), compile_s, error (a sentence where the network cannot be compiled). Exits with 1 if a network fails or
differs by more than 1e-3 of its largest output (at least 1).
"""

import csv
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

import tvm_sched
from subp.cli.networks import random_network
from subp.vision import import_torchvision

TOLERANCE = 1e-3
PIXELS = {"inception_v3": 299}
COLUMNS = ("network", "sparsity", "layers", "sparse", "max_error", "scale", "compile_s", "error")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--sparsity", default=0.75, show_default=True, help="Of the 1x16 mask on all but stem and classifier.")
@click.option("--output", default=Path("results/torchvision.csv"), show_default=True, type=click.Path(dir_okay=False, path_type=Path))
def command(networks, sparsity, output):
    """Compile torchvision's classification networks and compare each with PyTorch."""
    models = import_torchvision().models
    output.parent.mkdir(parents=True, exist_ok=True)
    passed = True
    with open(output, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name in networks or models.list_models(module=models):
            row = check(name, sparsity)
            writer.writerow(row)
            file.flush()
            click.echo(", ".join(f"{key} {value}" for key, value in row.items() if value != ""))
            passed &= row["error"] == "" and row["max_error"] <= TOLERANCE * max(1.0, row["scale"])
    sys.exit(0 if passed else 1)


def check(name: str, sparsity: float) -> dict:
    """One network's row."""
    row = dict.fromkeys(COLUMNS, "") | {"network": name, "sparsity": sparsity}
    network = random_network(name, n=16, sparsity=sparsity, seed=0, size=PIXELS.get(name, 224), batch=1)
    for weight in network.module.parameters():
        if not weight.any():  # torchvision begins some heads and biases at zero: nothing could be seen behind them
            torch.nn.init.normal_(weight, std=0.02)
    x = network.example_input.numpy()
    started = time.perf_counter()
    try:
        artifact = tvm_sched.compile(network.module, network.example_input, threads=1)
    except tvm_sched.UserError as error:
        return row | {"error": str(error)}
    layers = artifact.explain()
    expected = network.reference(x)
    return row | {
        "compile_s": round(time.perf_counter() - started, 1),
        "layers": len(layers),
        "sparse": sum(0 < layer.kept < layer.total for layer in layers if layer.n),
        "max_error": float(f"{np.abs(artifact(x) - expected).max():.2g}"),
        "scale": float(f"{np.abs(expected).max():.3g}"),
    }


if __name__ == "__main__":
    command()
