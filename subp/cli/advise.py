"""`subp advise`: which block size and sparsity for a network on a CPU, before anything is trained or compiled."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.model import model_options
from subp.cli.options.output import json_option, write_json
from subp.cli.options.types import FOLDER, INPUT_FILE, THREADS, Finite, Fractions, Numbers, OutputFile, target_option
from subp.pruning.methods import DEFAULT
from subp_contract.errors import require

if TYPE_CHECKING:
    from rich.table import Table

    from subp.deployment.advice import Choice

SIZES = [4, 8, 16, 32, 64]
SPARSITIES = [0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95]


@click.command(cls=Compiling)
@click.argument("model")
@model_options("size", "code")
@target_option
@click.option(
    "--n", "sizes", type=Numbers(), default=SIZES, help="Block sizes, comma-separated.  [default: 4,8,16,32,64]"
)
@click.option(
    "--sparsity",
    "sparsities",
    type=Fractions(),
    default=SPARSITIES,
    help="Fractions of blocks pruned, comma-separated.  [default: 0.5 to 0.95]",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Precision of the numbers inside: float32, float16, bfloat16, or int8 in the ranges of random images.",
)
@click.option("--threads", type=THREADS, default=1, show_default=True, help="Cores that share each layer.")
@click.option("--records", type=FOLDER, help="Folder of a tuning log.  [default: the target's own]")
@click.option(
    "--ghz",
    type=Finite(0, min_open=True),
    help="The CPU's frequency, for estimates.  [default: 2.4 for cortex-a76, else 3]",
)
@click.option(
    "--results",
    type=INPUT_FILE,
    help="CSV of scripts/compare_methods.py: measured accuracies stand beside the latencies.",
)
@click.option("--network", help="The network's name in that file.  [default: MODEL]")
@click.option("--method", default=DEFAULT, show_default=True, help="The method in that file.")
@click.option(
    "--picture",
    type=OutputFile(".png"),
    help="A .png to write: latency against sparsity, or against accuracy with its Pareto front.",
)
@json_option("the predictions")
def command(
    model,
    settings,
    target,
    sizes,
    sparsities,
    precision,
    threads,
    records,
    ghz,
    results,
    network,
    method,
    picture,
    json_file,
) -> None:
    """Predict MODEL's latency for block sizes and sparsities, and show accuracies beside it.

    Nothing is measured: each choice of N and sparsity is
    lowered to kernels, a few seconds each, whose times are those of tuning records, or the machine model's where there
    is none. `subp bench` measures.
    """
    from dataclasses import asdict, replace

    from subp.cli.options.terminal import console, show, tracked
    from subp.deployment import advice
    from subp_contract.files import write_atomically
    from tvm_sched import precision as precisions
    from tvm_sched import targets
    from tvm_sched.compiler import open_records

    accuracies = advice.accuracies(results, network or model, method) if results else {}
    cpu = replace(targets.get(target), cores=threads)
    numbers = precisions.of(precision, cpu)
    require(precision != precisions.AUTO, "precision auto is chosen as a network is compiled: predict float32 or int8")
    cpu = precisions.with_flags(cpu, numbers)
    module, x = advice.network_of(model, settings["size"], settings["code"])
    terminal = console()
    known = open_records(records, cpu)
    made = advice.lowered(module, x, cpu, sizes, sparsities, tracked("lowering"), known, numbers)
    choices = advice.with_accuracies(advice.predicted(made, cpu, ghz, known), accuracies)
    told = [f"{model} at {x.shape[2]}x{x.shape[3]}", target, f"{threads} thread{'s' * (threads > 1)}"]
    if precision != precisions.FLOAT32.word:
        told.insert(1, precision)
    title = f"{', '.join(told)}: predicted"
    show(table(choices, title), terminal)
    about = {"model": model, "input": list(x.shape), "target": target, "precision": precision, "threads": threads}
    write_json(json_file, about | {"choices": [asdict(each) for each in choices]})
    if picture:
        write_atomically(picture, draw(choices, title))


def table(choices: Sequence["Choice"], title: str) -> "Table":
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


def _sources(choices: Sequence["Choice"]) -> str:
    shares = [choice.measured for choice in choices]
    if not any(shares):
        return "\nall times are estimates"
    return (
        f"\n{min(shares):.0%} to {max(shares):.0%} of each time is measured, by tuning records; the rest is estimated"
    )


def _cell(choice: "Choice", dense: "Choice") -> str:
    accuracy = f", {choice.accuracy:.1%}" if choice.accuracy is not None else ""
    return f"{choice.ms:.3g} ms {dense.ms / choice.ms:.2f}x{accuracy}"


def draw(choices: Sequence["Choice"], title: str) -> bytes:
    """A PNG: accuracy over latency with the Pareto front where accuracies are known, else latency over sparsity."""
    from matplotlib.figure import Figure

    from subp.deployment.advice import pareto

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
