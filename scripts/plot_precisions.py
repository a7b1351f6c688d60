#!/usr/bin/env python
"""Draws what zeros and 8 bits do together: four bars a network, float32 and int8, dense and sparse.

    subp bench --suite networks --json float32.json
    subp bench --suite networks --precision int8 --json int8.json
    python scripts/plot_precisions.py float32.json int8.json -o docs/precisions.png

Bars are the median milliseconds of our builds; of rows alike, as of two runs, the least. Above each stands how many
times as fast it is as the dense network in float32.
"""

import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from subp_contract.errors import UserError, require
from subp_contract.files import write_atomically

BUILDS = {  # (precision, sparse) -> colour
    ("float32", False): "#b9c4c9",
    ("int8", False): "#7d929b",
    ("float32", True): "#6cc0ba",
    ("int8", True): "#0b7a75",
}
OURS = ("subp-dense", "subp-sparse")
Times = dict[str, dict[tuple[str, bool], float]]  # network -> milliseconds of each of BUILDS


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--sparsity", default=0.75, show_default=True, help="Of the sparse builds.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("docs/precisions.png"))
def command(results: tuple[Path, ...], sparsity: float, output: Path) -> None:
    """Draw the rows of RESULTS, the JSON files of `subp bench --suite`."""
    try:
        times = times_of([row for file in results for row in rows_of(file)], sparsity)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    write_atomically(output, picture(times, sparsity))
    for network, each in times.items():
        click.echo(f"{network}: " + ", ".join(f"{named(build)} {each[build]:.2f} ms" for build in BUILDS))
    click.echo(f"{output}: {len(times)} networks")


def rows_of(file: Path) -> list[dict]:
    """The measurements of a file. Raises UserError where there are none."""
    try:
        rows = json.loads(file.read_text())["measurements"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} is no JSON file of subp bench: it has no measurements") from error
    return list(rows)


def times_of(rows: Iterable[dict], sparsity: float) -> Times:
    """Those of the networks of which all BUILDS were measured, one thread and one image. Raises UserError where there
    is none, naming what the first lacks.
    """
    found: Times = {}
    for row in rows:
        sparse = row["engine"] == "subp-sparse"
        alone = (row["batch"], row["threads"], row.get("weights", "float32")) == (1, 1, "float32")
        if row["engine"] not in OURS or not alone or (sparse and round(row["sparsity"], 2) != sparsity):
            continue
        known = found.setdefault(row["network"], {})
        build = (row["precision"], sparse)
        known[build] = min(row["median_ms"], known.get(build, row["median_ms"]))
    require(bool(found), f"no row is of a build of ours, dense or {sparsity:.0%} sparse, on one thread and one image")
    whole = {network: each for network, each in found.items() if each.keys() >= BUILDS.keys()}
    first, known = next(iter(found.items()))
    lacking = [named(build) for build in BUILDS if build not in known]
    require(bool(whole), f"{first} was not measured in {' and '.join(lacking)}: give the file that has it as well")
    return whole


def named(build: tuple[str, bool]) -> str:
    """For the legend."""
    precision, sparse = build
    return f"{precision}, {'sparse' if sparse else 'dense'}"


def picture(times: Times, sparsity: float) -> bytes:
    """A PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 2 * len(times), 4), layout="constrained")
    axes, networks = figure.subplots(), list(times)
    width = 0.8 / len(BUILDS)
    for number, (build, colour) in enumerate(BUILDS.items()):
        at = [place + (number - (len(BUILDS) - 1) / 2) * width for place in range(len(networks))]
        bars = axes.bar(at, [times[each][build] for each in networks], width, color=colour, label=named(build))
        axes.bar_label(bars, labels(times, networks, build), fontsize=7, padding=2)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("ms, one image, one thread")
    axes.set_title(f"1xN zeros at {sparsity:.0%} and 8 bits: times as fast as dense float32", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def labels(times: Times, networks: Sequence[str], build: tuple[str, bool]) -> list[str]:
    """How many times as fast as its network's first build each bar is; nothing above the first."""
    first = next(iter(BUILDS))
    return ["" if build == first else f"{times[each][first] / times[each][build]:.1f}x" for each in networks]


if __name__ == "__main__":
    sys.exit(command())
