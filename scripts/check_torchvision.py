#!/usr/bin/env python
"""Compiles torchvision's classification networks with random weights and compares each with PyTorch.

    python scripts/check_torchvision.py                       all of them, a row each, to results/torchvision.csv
    python scripts/check_torchvision.py resnet18 vit_b_16     only these

Networks that have a row are skipped: a run that was cut off goes on where it was, and to try a network again its row is
deleted. Each is tried in a process of its own, small ones first, for one thread.

Columns: network, size (of the image, in pixels), n and sparsity (of the mask, on all but stem and classifier),
max_error (absolute, to PyTorch), scale (largest output; activations are scaled to about 1), sparse (layers that skip
blocks), layers (convolutions and linear layers), compile_s (CPU time, export included), status ('ok', or why not).
Exits with 1 if a network among those asked for is not ok.
"""

import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import click

TOLERANCE = 1e-3  # absolute
PIXELS = {"inception_v3": 299}  # others take 224
COLUMNS = ("network", "size", "n", "sparsity", "max_error", "scale", "sparse", "layers", "compile_s", "status")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--n", default=16, show_default=True, help="Block size.")
@click.option("--sparsity", default=0.75, show_default=True, help="Fraction of blocks that are zero.")
@click.option(
    "--output",
    default=Path("results/torchvision.csv"),
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option("--minutes", default=15.0, show_default=True, help="Time for a network, at most.")
@click.option("--gigabytes", default=16, show_default=True, help="Memory for a network, at most.")
@click.option("--one", is_flag=True, hidden=True, help="Print one network's row as JSON, in this process.")
def command(networks, n, sparsity, output, minutes, gigabytes, one):
    """Compile torchvision's classification networks and compare each with PyTorch."""
    if one:
        print(json.dumps(measured(networks[0], n, sparsity)))
        return
    rows = read(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    networks = networks or smallest_first()
    for name in networks:
        if name not in rows:
            rows[name] = tried(name, n, sparsity, minutes, gigabytes)
            write(output, rows)
            click.echo(", ".join(f"{key} {value}" for key, value in rows[name].items() if value != ""))
    sys.exit(0 if all(rows[name]["status"] == "ok" for name in networks) else 1)


def smallest_first() -> list[str]:
    """Names of torchvision's classifiers, by the number of their parameters."""
    from subp.common.vision import import_torchvision

    models = import_torchvision().models

    def parameters(name: str) -> int:
        return next(iter(models.get_model_weights(name))).meta["num_params"]

    return sorted(models.list_models(module=models), key=parameters)


def read(output: Path) -> dict[str, dict]:
    """The rows that are there, by network."""
    if not output.exists():
        return {}
    with open(output, newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def write(output: Path, rows: dict[str, dict]) -> None:
    """All rows, by name; an existing file is replaced by a whole one."""
    temporary = output.with_suffix(".tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    temporary.replace(output)


def tried(name: str, n: int, sparsity: float, minutes: float, gigabytes: int) -> dict:
    """One network's row, from a process of its own."""
    row = dict.fromkeys(COLUMNS, "") | {"network": name, "size": PIXELS.get(name, 224), "n": n, "sparsity": sparsity}
    limit = gigabytes << 30
    arguments = [sys.executable, __file__, "--one", "--n", str(n), "--sparsity", str(sparsity), name]
    try:
        result = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            timeout=60 * minutes,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )
    except subprocess.TimeoutExpired:
        return row | {"status": f"too large to try here: it takes more than {minutes:g} minutes"}
    if result.returncode == 0:
        return row | json.loads(result.stdout.splitlines()[-1])
    said = [line for line in result.stderr.splitlines() if line.strip()][-1:] or [f"exit code {result.returncode}"]
    if result.returncode < 0 or "alloc" in said[0] or "Memory" in said[0]:
        return row | {
            "status": f"too large to try here: it takes more than {gigabytes} GB of memory ({said[0].strip()})"
        }
    return row | {"status": said[0].strip()}


def measured(name: str, n: int, sparsity: float) -> dict:
    """What only a run tells of a network."""
    import numpy as np

    import tvm_sched
    from subp.deployment.random_networks import random_network

    network = random_network(name, n=n, sparsity=sparsity, seed=0, size=PIXELS.get(name, 224), batch=1)
    x = network.example_input.numpy()
    started = time.process_time()
    try:
        artifact = tvm_sched.compile(network.module, network.example_input, threads=1)
    except tvm_sched.UserError as error:
        return {"status": str(error)}
    compile_s = round(time.process_time() - started, 1)
    layers, expected = artifact.explain(), network.reference(x)
    max_error, scale = float(np.abs(artifact(x) - expected).max()), float(np.abs(expected).max())
    return {
        "max_error": f"{max_error:.2g}",
        "scale": f"{scale:.3g}",
        "sparse": sum(0 < layer.kept < layer.total for layer in layers if layer.n),
        "layers": len(layers),
        "compile_s": compile_s,
        "status": "ok"
        if max_error <= TOLERANCE
        else f"more than {TOLERANCE}; PyTorch itself is {rounding(network, expected):.2g} from float64",
    }


def rounding(network, expected) -> float:
    """What float32 alone does to PyTorch's own outputs: deep networks of random weights amplify the last bits."""
    import numpy as np
    import torch

    with torch.no_grad():
        exact = network.module.double().eval()(network.example_input.double()).numpy()
    return float(np.abs(expected - exact).max())


if __name__ == "__main__":
    command()
