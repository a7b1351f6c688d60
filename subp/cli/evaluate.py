"""`subp evaluate`: accuracy and speed of a network on labelled images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.model import model_options
from subp.cli.options.output import json_option, write_json
from subp.cli.options.types import SEED, THREADS, not_an_input

if TYPE_CHECKING:
    from rich.table import Table

    from subp.deployment.evaluation import Evaluation

SHOWN = 20  # classes, of which the whole confusion matrix fits a terminal
PAIRS = 10  # mistakes shown of more


@click.command(cls=Compiling, short_help="Accuracy, confusion and images a second of MODEL or NET.SO on DATA.")
@click.argument("model", metavar="MODEL|NET.SO")
@click.argument("data")
@model_options("size", "batch", "code")
@click.option(
    "--part",
    type=click.Choice(["val", "train", "all"]),
    default="val",
    show_default=True,
    help="Part of DATA: what `subp train` validates on, what it trains on, or both.",
)
@click.option(
    "--seed", "split_seed", type=SEED, default=0, show_default=True, help="Seed of the split, of DATA in one part."
)
@click.option("--threads", type=THREADS, help="Threads to compute with.  [default: one for each core]")
@click.option("--download", is_flag=True, help="Let torchvision fetch its data set if the folder lacks it.")
@json_option("all of it")
def command(
    model: str,
    data: str,
    settings: dict,
    part: str,
    split_seed: int,
    threads: int | None,
    download: bool,
    json_file: Path | None,
) -> None:
    """Evaluate MODEL, or what `subp compile` wrote, on DATA, which is what `subp train` takes: accuracy, how often the
    true class is among the five likeliest, what is taken for what, and images a second in the network alone.

    Images are prepared as in training, where the file knows how.
    """
    import torch

    from subp.cli.options.terminal import show, tracked
    from subp.data.loaders import datasets
    from subp.deployment.classifier import opened
    from subp.deployment.evaluation import evaluate

    not_an_input(json_file, model, data)
    if threads:
        torch.set_num_threads(threads)
    classifier = opened(model, settings, threads)
    images = datasets(data, size=classifier.preprocessing.size, seed=split_seed, download=download)
    found = evaluate(classifier, images, data, part, tracked("evaluating"))
    top5 = "" if found.top5 is None else f", {found.top5:.2%} among the five likeliest"
    click.echo(
        f"{found.images} images of {data} ({part}), {len(found.classes)} classes: accuracy {found.accuracy:.2%}{top5}"
    )
    count = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    click.echo(f"{found.images_per_s:,.0f} images/s in the network alone{count}, {classifier.batch} at a time")
    show(table(found))
    write_json(json_file, asdict(found))


def table(found: "Evaluation") -> "Table":
    """The confusion matrix; of many classes the most frequent mistakes."""
    from rich.table import Table

    if len(found.classes) > SHOWN:
        rows = Table("class", "taken for", title="most frequent mistakes")
        rows.add_column("images", justify="right")
        for truth, taken, count in found.confused(PAIRS):
            rows.add_row(truth, taken, str(count))
        return rows
    rows = Table(
        "class", title="images of each class (rows) by what they are taken for (columns)", padding=(0, 0, 0, 1)
    )
    for number in range(len(found.classes)):
        rows.add_column(str(number), justify="right", no_wrap=True)
    rows.add_column("right", justify="right")
    for number, (name, counts, recall) in enumerate(zip(found.classes, found.confusion, found.recalls, strict=True)):
        shown = name if name == str(number) else f"{number} {name}"
        rows.add_row(shown, *(str(count) if count else "·" for count in counts), f"{recall:.1%}")
    return rows
