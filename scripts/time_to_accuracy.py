#!/usr/bin/env python
"""How soon trainings that leave the zeros out reach an accuracy, beside the dense one: accuracies by steps of a few
trainings, and the time of a step, measured apart.

    python scripts/time_to_accuracy.py train results/time_to_accuracy.yaml --data DIR -o results/time_to_accuracy.csv
    python scripts/sparse_training.py networks --network resnet20_x2 --pixels 32 --batch 64 --sparsity 0 \\
        --sparsity 0.25 --sparsity 0.5 --sparsity 0.625 --sparsity 0.75 -o STEPS.csv
    python scripts/time_to_accuracy.py figure results/time_to_accuracy.csv --steps STEPS.csv -o FIGURE.png

`train` may be cut off at any time and goes on where it was; it needs no quiet machine, and writes a row an epoch:
density is that of the pruned layers, accuracy that of a part of the test images. The time of a step does need quiet
cores. `figure` multiplies: an epoch takes its steps times what one takes at its density, between the densities measured
in a straight line; a dense training's by PyTorch alone, the others' by kernels. Choosing masks and reading images are
left out. It also tells when each training reaches what the best dense one has in the end, and before.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click

from subp.pruning.methods import DENSE, METHODS
from subp.training import experiments
from subp_contract.files import write_atomically

JUDGED = 2000  # test images after each epoch
COLUMNS = (
    *("cell", "data", "network", "pixels", "batch", "lr", "method", "n", "sparsity", "masks", "seed", "epoch"),
    *("steps", "density", "train_loss", "accuracy"),
)
SETTING = ("data", "network", "pixels", "batch")


@dataclass(frozen=True)
class Curve:
    """Of one training at a learning rate: seconds and accuracy after each epoch, in order."""

    method: str
    rate: str
    seconds: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def name(self) -> str:
        """The method, how long it trained, and at which rate."""
        return f"{self.method}, {len(self.seconds)} epochs, rate {self.rate}"

    def reaches(self, accuracy: float) -> float | None:
        """Seconds until an epoch ends with that accuracy; None if none does."""
        found = (seconds for seconds, own in zip(self.seconds, self.accuracies, strict=True) if own >= accuracy)
        return next(found, None)


@click.group(help=__doc__.split("\n\n")[0])
def main() -> None:
    pass


def output(command):
    return click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)(command)


@main.command()
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/time_to_accuracy"))
@output
def train(grid: Path, data: Path, work: Path, output: Path) -> None:
    """Train every cell of GRID that has no rows yet, on one thread."""
    import torch

    from subp.common.freed_memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    rows = read(output) if output.exists() else []
    for cell in experiments.read_grid(grid):
        if not any(row["cell"] == cell.key for row in rows):
            rows += trained(cell, data, work / cell.key)
            write(output, rows)
            click.echo(f"{cell.network} {cell.method}: {rows[-1]['accuracy']}")


def trained(cell: experiments.Cell, root: Path, folder: Path) -> list[dict]:
    """A row an epoch."""
    from subp.training import trainer
    from subp.training.config import Config

    data = experiments.watched(experiments.load(cell, root), cell.seed, JUDGED)
    names = ("method", "n", "sparsity", "epochs", "seed", "batch_size", "lr")
    given = {name: getattr(cell, name) for name in names} | {"model": cell.network} | dict(cell.options)
    resume = (folder / trainer.CHECKPOINT).exists()
    history = trainer.train(data, Config.of(given), output=folder, resume=resume).history
    steps = len(data.train) // cell.batch_size
    known = {name: getattr(cell, name) for name in ("data", "network", "lr", "method", "n", "sparsity", "seed")}
    known |= {"cell": cell.key, "pixels": cell.size, "batch": cell.batch_size, "masks": masks(cell)}
    return [
        known
        | {
            "epoch": row["epoch"],
            "steps": (row["epoch"] + 1) * steps,
            "density": f"{row['density']:.4f}",
            "train_loss": f"{row['train_loss']:.4f}",
            "accuracy": f"{row['val_accuracy']:.4f}",
        }
        for row in history
    ]


def masks(cell: experiments.Cell) -> str:
    """Which steps cost what the cell's do: "soft" where the gradient of pruned weights is asked for."""
    if cell.method == DENSE:
        return "hard"
    method = METHODS[cell.method]
    return "soft" if dict(cell.options).get("soft", method.soft) or method.needs_gradients else "hard"


@main.command()
@click.argument("accuracies", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--steps", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@output
def figure(accuracies: Path, steps: Path, output: Path) -> None:
    """Draw accuracy over time, and tell when it is reached."""
    taken = read(steps)
    settings = {}
    for setting, rows in groupby(sorted(read(accuracies), key=setting_of), key=setting_of):
        runs = groupby(rows, key=lambda row: row["cell"])
        settings[setting] = [curve(list(run), taken) for _, run in runs]
    write_atomically(output, picture(settings))
    for setting, curves in settings.items():
        click.echo(", ".join(setting))
        for line in reached(curves):
            click.echo(f"  {line}")


def setting_of(row: dict) -> tuple[str, ...]:
    """What trainings must have in common to be drawn together."""
    return tuple(row[name] for name in SETTING)


def curve(rows: Sequence[dict], taken: Sequence[dict]) -> Curve:
    """Of a training's rows. taken: the rows of `sparse_training.py networks`."""
    first, seconds, before, total = rows[0], [], 0, 0.0
    alike = [row for row in taken if all(row[name] == first[name] for name in ("network", "pixels", "batch", "masks"))]
    column = "dense_ms" if first["method"] == DENSE else "kernels_ms"
    times = sorted((1 - float(row["sparsity"]), float(row[column]) / 1e3) for row in alike)
    if not times:
        raise click.ClickException(f"no time was measured of a step of {first['network']}, {first['masks']} masks")
    for row in rows:
        total += (int(row["steps"]) - before) * between(times, float(row["density"]))
        before = int(row["steps"])
        seconds.append(total)
    return Curve(first["method"], first["lr"], tuple(seconds), tuple(float(row["accuracy"]) for row in rows))


def between(points: Sequence[tuple[float, float]], at: float) -> float:
    """At a place between two points, or that of the nearest one."""
    import numpy as np

    places, values = zip(*points, strict=True)
    return float(np.interp(at, places, values))


def reached(curves: Sequence[Curve]) -> list[str]:
    """Of each training, its whole time, its last accuracy, and when it reached shares of the best dense one's last."""
    alike = [each for each in curves if each.method == DENSE] or curves
    dense = max(alike, key=lambda each: each.accuracies[-1])
    lines = []
    for each in curves:
        goals = []
        for share in (0.9, 0.95, 1.0):
            seconds = each.reaches(share * dense.accuracies[-1])
            goals.append(f"{share:.0%} of the dense one's " + ("never" if seconds is None else f"{seconds:.0f} s"))
        lines.append(f"{each.name}: {each.seconds[-1]:.0f} s, {each.accuracies[-1]:.1%}; {', '.join(goals)}")
    return lines


def picture(settings: dict[tuple[str, ...], list[Curve]]) -> bytes:
    """A PNG: accuracy over minutes, a setting beside the other."""
    import io

    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6 * len(settings), 4.2), layout="constrained")
    panels = drawing.subplots(1, len(settings), squeeze=False)[0]
    for axes, (setting, curves) in zip(panels, settings.items(), strict=True):
        data, network, pixels, _ = setting
        colors = {method: f"C{i}" for i, method in enumerate(sorted({each.method for each in curves} - {DENSE}))}
        for each in curves:
            style: dict = {"color": colors[each.method]} if each.method != DENSE else {"color": "black", "linewidth": 2}
            short = len(each.seconds) < max(len(other.seconds) for other in curves)
            line = "--" if short else "-" if each.rate == curves[0].rate else ":"
            minutes, accuracies = [seconds / 60 for seconds in each.seconds], [100 * own for own in each.accuracies]
            axes.plot(minutes, accuracies, "." + line, label=each.name, **style)
        axes.set_title(f"{network}, {data}, {pixels} pixels", fontsize=10)
        axes.set_xlabel("minutes of steps, one thread")
        axes.set_ylabel("test accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    png = io.BytesIO()
    drawing.savefig(png, format="png", dpi=120)
    return png.getvalue()


def read(path: Path) -> list[dict]:
    """The rows of a CSV file, text by column."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[dict]) -> None:
    """A CSV file with a header."""
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


if __name__ == "__main__":
    main()
