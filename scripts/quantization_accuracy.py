#!/usr/bin/env python
"""Trains the networks of a grid and writes, a row each, their accuracies in float32, float16 and int8 to a CSV file.

    python scripts/quantization_accuracy.py results/quantization.json --data DIR

DIR (or the environment's SUBP_DATA) holds the grid's data sets, such as cifar10-jpeg. Networks that have a row are
skipped, and a training that was cut off goes on. `subp.deployment.low_precision` says what each column is.
"""

import csv
import io
from pathlib import Path

import click

from subp_contract.files import write_atomically


@click.command()
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data",
    envvar="SUBP_DATA",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the data sets.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("results/quantization.csv"),
    show_default=True,
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/quantization"),
    show_default=True,
    help="Folder for the trained networks.",
)
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
def command(grid: Path, data: Path, output: Path, work: Path, threads: int) -> None:
    """Train every cell of GRID and measure it, a row each."""
    import torch
    from rich.console import Console

    from subp.deployment import low_precision
    from subp.training import experiments
    from subp.training.progress import Progress

    torch.set_num_threads(threads)
    rows = list(csv.DictReader(output.open(newline=""))) if output.exists() else []
    for cell in experiments.read_grid(grid):
        if cell.key in {row["cell"] for row in rows}:
            continue
        click.secho(f"{cell.network} on {cell.data}", bold=True)
        row = low_precision.accuracies(cell, data, work, Progress(Console()))
        rows.append(row | {name: f"{value:.5f}" for name, value in row.items() if name in low_precision.COLUMNS[-4:]})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, low_precision.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(output, text.getvalue().encode())
        told = ", ".join(f"{name} {row[name]:.2%}" for name in low_precision.COLUMNS[-4:])
        click.echo(f"   {told}")


if __name__ == "__main__":
    command()
