#!/usr/bin/env python
"""Estimates latencies of networks on a CPU that is not here, dense and 1x16 sparse, and the tile of each kernel that
would be best there.

    python scripts/estimate_latency.py [TARGET] [--network NAME ...] [--threads 1,4] [--precision int8]

Static analysis: `tvm_sched/estimation/estimate.py` says what is assumed. Rows go into results/estimated_TARGET.csv,
tiles into tuning_logs/FAMILY/best.jsonl, marked as estimated; a network whose row is there is not estimated again. The
board around the core is that of a Raspberry Pi 5.
"""

import csv
import os
from dataclasses import astuple, replace
from pathlib import Path

import click

from subp.cli.options.types import Numbers
from subp.deployment.random_networks import random_network
from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched import precision as precisions
from tvm_sched.compiler import SHIPPED
from tvm_sched.estimation.estimate import RASPBERRY_PI_5, Estimator
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.precision import Precision
from tvm_sched.quiet import quiet
from tvm_sched.records.database import known_as
from tvm_sched.records.fastest import estimated, write_estimates
from tvm_sched.tuning.tiles import tasks_of

NETWORKS = ("resnet18", "mobilenet_v1", "mobilenet_v2", "resnet34", "resnet50")
SPARSITIES = (0.75, 0.0, 0.9, 0.5)
FIELDS = ("network", "n", "sparsity", "threads", "precision", "estimated_ms")
RESULTS = Path(__file__).resolve().parent.parent / "results"


@click.command()
@click.argument("target", default="cortex-a76")
@click.option(
    "--network", "networks", multiple=True, default=NETWORKS, help="A network [the five of the benchmark suite]."
)
@click.option("--threads", type=Numbers(), default="1,4", show_default=True)
@click.option("--precision", default="float32", show_default=True)
def command(target: str, networks: tuple[str, ...], threads: list[int], precision: str):
    """Estimate latencies and tiles for TARGET."""
    try:
        machine = targets.get(target)
        numbers = precisions.of(precision, machine)
        estimators = {}
        for count in threads:
            shared = next(iter(estimators.values())).loops if estimators else None
            estimators[count] = Estimator(replace(machine, cores=count), shared)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    file = RESULTS / f"estimated_{machine.name}.csv"
    rows = {key(row): row for row in csv.DictReader(file.read_text().splitlines())} if file.exists() else {}
    for sparsity in SPARSITIES:
        for network in networks:
            asked = [count for count in threads if (network, str(sparsity), str(count), precision) not in rows]
            if asked:
                for row in estimate(network, sparsity, [estimators[count] for count in asked], numbers):
                    rows[key(row)] = row
                    click.echo(" ".join(row.values()))
                write(file, list(rows.values()))


def estimate(name: str, sparsity: float, estimators: list[Estimator], numbers: Precision) -> list[dict]:
    """The rows of one network in a precision, one an estimator; the tiles of its kernels are written."""
    network = random_network(name, n=16, sparsity=sparsity, seed=0, size=224, batch=1)
    with quiet():
        module = network.module
        if numbers.before:  # ranges of random numbers: they do not change what is computed
            module = numbers.before(module, [network.example_input], network.example_input, None)
            module = torch_export.fixed(module, network.example_input, None)
        imported = torch_export.from_torch(module, network.example_input)
    rows = []
    for estimator in estimators:
        with quiet():
            mod = pipeline.fused(imported, Compilation(estimator.target, dense=not sparsity, precision=numbers))
        seconds = estimator.network_seconds(mod, RASPBERRY_PI_5)
        values = (name, 16 if sparsity else 1, sparsity, estimator.target.cores, numbers.word, f"{1e3 * seconds:.1f}")
        rows.append(dict(zip(FIELDS, map(str, values), strict=True)))
        guesses = [(task.func, estimator.guess(task.func)) for task in tasks_of(mod)]
        lines = [
            estimated(known_as(func), estimator.target, guess.cycles * 1e-9, list(astuple(guess.tile)))
            for func, guess in guesses
            if guess is not None
        ]
        write_estimates(SHIPPED / estimator.target.family, lines)
    return rows


def key(row: dict) -> tuple[str, str, str, str]:
    """What a file holds one row of."""
    return row["network"], row["sparsity"], row["threads"], row["precision"]


def write(file: Path, rows: list[dict]):
    """Writes the table, all or nothing."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as out:
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            sorted(
                rows, key=lambda row: (row["network"], row["precision"], float(row["sparsity"]), int(row["threads"]))
            )
        )
    os.replace(partial, file)


if __name__ == "__main__":
    command()
