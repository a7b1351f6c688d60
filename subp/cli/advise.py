"""`subp advise`: which block size and sparsity for a network on a CPU, before anything is trained or compiled."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options import FOLDER, INPUT_FILE, Numbers, OutputFile, target_option
from subp_contract.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn
    from tvm import IRModule

    from tvm_sched.targets import Target

SIZES = [4, 8, 16, 32, 64]
SPARSITIES = [50, 60, 70, 75, 80, 90, 95]  # per cent
A76 = "cortex-a76"  # estimated as on a Raspberry Pi 5
OTHER_GHZ = 3.0


@dataclass(frozen=True)
class Choice:
    """A way to prune the network. n is None for the dense one; `measured` is the share of `ms` that tuning records
    tell; accuracy where one was measured, with its seeds.
    """

    n: int | None
    sparsity: float
    ms: float
    measured: float = 0.0
    accuracy: float | None = None
    seeds: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"1x{self.n}, {self.sparsity:.0%}" if self.n else "dense"


@click.command()
@click.argument("model")
@target_option
@click.option("--size", type=click.IntRange(1), help="Height and width of the images [the checkpoint's, or 224].")
@click.option(
    "--n", "sizes", type=Numbers(), default=SIZES, help="Block sizes, comma-separated.  [default: 4,8,16,32,64]"
)
@click.option(
    "--sparsity",
    "sparsities",
    type=Numbers(),
    default=SPARSITIES,
    help="Per cent, comma-separated.  [default: 50 to 95]",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores that share each layer.")
@click.option("--records", type=FOLDER, help="Folder of a tuning log [the target's own].")
@click.option(
    "--ghz", type=float, help=f"The CPU's frequency, for estimates.  [default: 2.4 for cortex-a76, else {OTHER_GHZ:g}]"
)
@click.option(
    "--code", help="FILE.py:FUNCTION that makes a checkpoint's network, for one of your own; the file is run."
)
@click.option(
    "--results",
    type=INPUT_FILE,
    help="CSV of scripts/compare_methods.py: measured accuracies stand beside the latencies.",
)
@click.option("--network", help="The network's name in that file.  [default: MODEL]")
@click.option("--method", default="subp", show_default=True, help="The method in that file.")
@click.option(
    "--picture",
    type=OutputFile(),
    help="A .png to write: latency against sparsity, or against accuracy with its Pareto front.",
)
def command(
    model, target, size, sizes, sparsities, threads, records, ghz, code, results, network, method, picture
) -> None:
    """Predict MODEL's latency for block sizes and sparsities, and show accuracies beside it.

    MODEL is a network's name or a checkpoint. Nothing is measured: each choice of N and sparsity is lowered to kernels,
    a few seconds each, whose times are those of tuning records, or the machine model's where there is none. `subp
    bench` measures.
    """
    from dataclasses import replace

    from subp.cli.terminal import console
    from subp_contract.files import write_atomically
    from tvm_sched import targets
    from tvm_sched.compiler import open_records

    if any(sparsity >= 100 for sparsity in sparsities):
        raise UserError(f"sparsities are per cent below 100, not {max(sparsities)}")
    cpu = replace(targets.get(target), cores=threads)
    module, x = _network(model, size, code)
    made = lowered(module, x, cpu, sizes, [each / 100 for each in sparsities], console())
    choices = predicted(made, cpu, ghz, open_records(records, cpu))
    if results:
        choices = with_accuracies(choices, results, network or model, method)
    title = f"{model} at {x.shape[2]}x{x.shape[3]}, {target}, {threads} thread{'s' * (threads > 1)}: predicted"
    console().print(table(choices, title))
    if picture:
        write_atomically(picture, draw(choices, title))


def _network(model: str, size: int | None, code: str | None) -> tuple["nn.Module", "Tensor"]:
    """(the network, an input)"""
    import torch

    from subp import models
    from subp.deployment.networks import CLASSES, DEFAULTS, checkpoint_network

    if not model.endswith(".safetensors"):
        return models.create(model, CLASSES), torch.zeros(1, 3, *[size or DEFAULTS["size"]] * 2)
    network, _ = checkpoint_network(Path(model), size, 1, code)
    return network.module, network.example_input


def lowered(
    module: "nn.Module",
    x: "Tensor",
    target: "Target",
    sizes: Sequence[int],
    sparsities: Sequence[float],
    console: "Console",
) -> dict[tuple[int | None, float], "IRModule"]:
    """(n, sparsity) -> the network as calls of kernels: the dense one, (None, 0), then every block size at every
    sparsity.
    """
    from rich.progress import track

    from tvm_sched import pipeline
    from tvm_sched.frontend import torch_export
    from tvm_sched.pipeline import Compilation
    from tvm_sched.quiet import quiet

    keys = [(None, 0.0), *itertools.product(sizes, sparsities)]
    made = {}
    for n, sparsity in track(keys, "lowering", console=console, transient=True, disable=not console.is_terminal):
        network = with_zeros(module, n, sparsity) if n else module
        with quiet():
            compilation = Compilation(target, dense=n is None)
            made[n, sparsity] = pipeline.fused(torch_export.from_torch(network, x), compilation)
    return made


def predicted(
    made: dict[tuple[int | None, float], "IRModule"], target: "Target", ghz: float | None, records
) -> list[Choice]:
    """The choices with their latencies, the dense network first."""
    from dataclasses import replace

    from tvm_sched.estimation.estimate import RASPBERRY_PI_5, Board
    from tvm_sched.estimation.predict import predict

    board = RASPBERRY_PI_5 if target.family == A76 else Board(OTHER_GHZ, math.inf, math.inf)
    predictions = predict(made, target, replace(board, ghz=ghz or board.ghz), records)
    return [Choice(n, sparsity, 1e3 * each.seconds, each.measured) for (n, sparsity), each in predictions.items()]


def with_zeros(module: "nn.Module", n: int, sparsity: float) -> "nn.Module":
    """A copy with random uniform 1xN zeros, and no others, in the layers that would be pruned."""
    import copy

    import torch

    from subp.pruning.masking import trained_weight
    from subp.pruning.sparsifier import Sparsifier

    copied = copy.deepcopy(module)
    sparsifier = Sparsifier(copied, n=n, sparsity=sparsity, method="random", epochs=1)
    for place in sparsifier.places.values():
        torch.nn.init.ones_(trained_weight(*place))
    sparsifier.step(0)
    return sparsifier.fold()


def with_accuracies(choices: Sequence[Choice], results: Path, network: str, method: str) -> list[Choice]:
    """The choices with the mean accuracies that the CSV file has of them; its `dense` rows are the dense network's."""
    from dataclasses import replace

    columns = ("network", "method", "n", "sparsity", "accuracy")
    found: dict[tuple, list[float]] = {}
    try:
        with open(results, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if not row.get("variant")]
        if not all(row.get(column) is not None for row in rows for column in columns):
            raise ValueError(f"a row needs {', '.join(columns)}")
        rows = [row for row in rows if row["network"] == network]
        for row in rows:
            if row["method"] in (method, "dense"):
                key = (None, 0.0) if row["method"] == "dense" else (int(row["n"]), float(row["sparsity"]))
                found.setdefault(key, []).append(float(row["accuracy"]))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{results} is no CSV file of results: {error}") from error
    if not rows:
        raise UserError(f"{results} has no row of the network {network!r}: name one with --network")
    return [
        replace(choice, accuracy=statistics.fmean(found[key]), seeds=len(found[key]))
        if (key := (choice.n, choice.sparsity)) in found
        else choice
        for choice in choices
    ]


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """Those with a measured accuracy that no faster one reaches, the fastest first."""
    front: list[Choice] = []
    for choice in sorted(
        (each for each in choices if each.accuracy is not None), key=lambda each: (each.ms, -each.accuracy)
    ):
        if not front or choice.accuracy > front[-1].accuracy:
            front.append(choice)
    return front


def table(choices: Sequence[Choice], title: str):
    """For a rich console: a line a sparsity, a column a block size, the fastest of each line marked."""
    from rich.table import Table

    dense, pruned = choices[0], choices[1:]
    rows = Table(title=f"{title}\ndense: {_cell(dense, dense)}", title_justify="left")
    rows.add_column("sparsity", justify="right")
    sizes = list(dict.fromkeys(choice.n for choice in pruned))
    for n in sizes:
        rows.add_column(f"1x{n}", justify="right")
    for sparsity in dict.fromkeys(choice.sparsity for choice in pruned):
        line = [choice for choice in pruned if choice.sparsity == sparsity]
        fastest = min(line, key=lambda choice: choice.ms)
        rows.add_row(f"{sparsity:.0%}", *(("*" if choice is fastest else "") + _cell(choice, dense) for choice in line))
    rows.caption = "ms and times as fast as dense; * the fastest of its line; accuracy where measured" + _sources(
        choices
    )
    return rows


def _sources(choices: Sequence[Choice]) -> str:
    shares = [choice.measured for choice in choices]
    if not any(shares):
        return "\nall times are estimates"
    return (
        f"\n{min(shares):.0%} to {max(shares):.0%} of each time is measured, by tuning records; the rest is estimated"
    )


def _cell(choice: Choice, dense: Choice) -> str:
    accuracy = f", {choice.accuracy:.1%}" if choice.accuracy is not None else ""
    return f"{choice.ms:.3g} ms {dense.ms / choice.ms:.2f}x{accuracy}"


def draw(choices: Sequence[Choice], title: str) -> bytes:
    """A PNG: accuracy over latency with the Pareto front where accuracies are known, else latency over sparsity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    front = pareto(choices)
    for n in dict.fromkeys(choice.n for choice in choices[1:]):
        line = [choice for choice in choices if choice.n == n]
        label = f"1x{n}"
        if front:
            line = [choice for choice in line if choice.accuracy is not None]
            axes.plot(
                [each.ms for each in line], [100 * each.accuracy for each in line], "o", label=label if line else None
            )
        else:
            axes.plot([100 * each.sparsity for each in line], [each.ms for each in line], "o-", label=label)
    if front:
        axes.step(
            [each.ms for each in front],
            [100 * each.accuracy for each in front],
            "k--",
            where="post",
            label="Pareto front",
        )
        for each in front:
            axes.annotate(
                each.name, (each.ms, 100 * each.accuracy), fontsize=7, textcoords="offset points", xytext=(4, -9)
            )
    else:
        axes.axhline(choices[0].ms, color="grey", linestyle=":", label="dense")
    axes.set_xlabel("latency, ms, predicted" if front else "sparsity, %")
    axes.set_ylabel("accuracy, %" if front else "latency, ms, predicted")
    axes.legend(fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()
