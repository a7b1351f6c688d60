#!/usr/bin/env python
"""Makes a page and a picture of the rows that scripts/compare_methods.py wrote.

    python scripts/plot_results.py results/methods.csv      writes results/methods.md and results/methods.png

Rows that differ in their seed alone are one line: mean and standard deviation (of the sample) of the accuracy, and how
many seeds.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from subp.pruning.methods import DENSE, METHODS
from subp.training.experiments import read_rows
from subp_contract.files import write_atomically

NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG q75)", "imagenette-112": "Imagenette-112"}
SETTING = ("data", "size", "train_images", "network", "epochs")
SAME = (*SETTING, "method", "variant", "n", "sparsity", "options")


@dataclass(frozen=True)
class Line:
    """Runs alike but for the seed. Accuracies and shares from 0 to 1; spread is None of one seed."""

    setting: tuple[str, ...]
    method: str
    n: int | None
    sparsity: float
    mean: float
    spread: float | None
    seeds: int
    density: float
    mac_share: float

    @property
    def accuracy(self) -> str:
        """In per cent, with its spread."""
        return f"{100 * self.mean:.2f}" + ("" if self.spread is None else f" ± {100 * self.spread:.2f}")


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def command(results):
    """Make a page and a picture of RESULTS, beside it."""
    lines = summarised(read_rows(results))
    write_atomically(results.with_suffix(".md"), page(lines, results.name).encode())
    write_atomically(results.with_suffix(".png"), picture(lines))
    click.echo(f"{results.with_suffix('.md')}, {results.with_suffix('.png')}: {len(lines)} lines")


def summarised(rows: Sequence[dict]) -> list[Line]:
    """A line for each set of runs alike, in the order of the first."""
    alike: dict[tuple, list[dict]] = {}
    for row in rows:
        alike.setdefault(tuple(row[name] for name in SAME), []).append(row)
    return [_line(runs) for runs in alike.values()]


def _line(runs: Sequence[dict]) -> Line:
    first, accuracies = runs[0], [float(run["accuracy"]) for run in runs]
    method = first["method"] + (f" ({first['variant']})" if first["variant"] else "")
    return Line(
        setting=tuple(first[name] for name in SETTING),
        method=method,
        n=int(first["n"]) if first["method"] != DENSE and METHODS[first["method"]].uses_n else None,
        sparsity=0.0 if first["method"] == DENSE else float(first["sparsity"]),
        mean=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        seeds=len(runs),
        density=statistics.fmean(float(run["density"]) for run in runs),
        mac_share=statistics.fmean(float(run["mac_share"]) for run in runs),
    )


def page(lines: Sequence[Line], source: str) -> str:
    """Markdown: a table for each setting, by sparsity, best first."""
    parts = [
        f"# Methods compared\n\nMade from `{source}` by `scripts/plot_results.py`. "
        "Validation accuracy after the last epoch in per cent; mean ± standard\ndeviation over seeds.\n"
    ]
    for setting in dict.fromkeys(line.setting for line in lines):
        data, size, images, network, epochs = setting
        parts.append(
            f"\n## {network} on {NAMES.get(data, data)}\n\n{images} training images of {size}x{size}, {epochs} "
            "epochs.\n"
        )
        parts.append(
            "\n| method | 1xN | sparsity | accuracy | seeds | weights kept | MACs kept "
            "|\n|---|---|---|---|---|---|---|\n"
        )
        of_setting = [line for line in lines if line.setting == setting]
        for line in sorted(of_setting, key=lambda line: (line.sparsity, -line.mean)):
            blocks = f"1x{line.n}" if line.n else "-"
            parts.append(
                f"| {line.method} | {blocks} | {line.sparsity:.0%} | {line.accuracy} | {line.seeds} | "
                f"{line.density:.1%} | {line.mac_share:.1%} |\n"
            )
    return "".join(parts) + f"\n![Accuracies]({Path(source).stem}.png)\n"


def picture(lines: Sequence[Line]) -> bytes:
    """A PNG: for each setting, accuracy by method at the sparsity with most lines, over sparsity, and over N."""
    import io

    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(line.setting for line in lines))
    figure = Figure(figsize=(15, 4.8 * len(settings)), layout="constrained")
    for row, setting in zip(figure.subplots(len(settings), 3, squeeze=False), settings, strict=True):
        of_setting = [line for line in lines if line.setting == setting]
        sparse = [line.sparsity for line in of_setting if line.sparsity]
        common = statistics.mode(sparse) if sparse else 0.0
        sizes = [line.n for line in of_setting if line.n and line.sparsity]
        usual = statistics.mode(sizes) if sizes else None
        comparable = [line for line in of_setting if line.sparsity in (0.0, common) and line.n in (None, usual)]
        _bars(row[0], comparable, f"{common:.0%} sparse, 1x{usual}")
        plain = [line for line in of_setting if line.n in (None, usual) and "(" not in line.method and line.sparsity]
        _curves(row[1], plain, "sparsity", f"1x{usual}")
        _curves(
            row[2],
            [line for line in of_setting if line.n and line.sparsity == common and "(" not in line.method],
            "n",
            f"{common:.0%} sparse",
        )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _bars(axes, lines: Sequence[Line], title: str) -> None:
    lines = sorted(lines, key=lambda line: line.mean)
    axes.barh(
        [line.method for line in lines],
        [100 * line.mean for line in lines],
        xerr=[100 * (line.spread or 0) for line in lines],
        color="#0b7a75",
    )
    if lines:
        axes.set_xlim(left=max(0, 100 * min(line.mean for line in lines) - 5))
    axes.set_xlabel("accuracy, %")
    axes.set_title(title, fontsize=10)


def _curves(axes, lines: Sequence[Line], over: str, title: str) -> None:
    for method in dict.fromkeys(line.method for line in lines):
        points = sorted((line for line in lines if line.method == method), key=lambda line: getattr(line, over))
        if len(points) > 1:
            at = [getattr(line, over) for line in points]
            means, spreads = [100 * line.mean for line in points], [100 * (line.spread or 0) for line in points]
            axes.errorbar(at, means, yerr=spreads, marker="o", capsize=3, label=method)
    if not axes.has_data():
        axes.set_visible(False)
        return
    axes.legend(fontsize=8)
    axes.set_xlabel("N" if over == "n" else over)
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=10)


if __name__ == "__main__":
    command()
