#!/usr/bin/env python
"""Makes a page and a picture of the rows that scripts/compare_methods.py wrote.

    python scripts/plot_results.py results/methods.csv      writes results/methods.md and results/methods.png

Rows that differ in their seed alone are one line: mean and standard deviation (of the sample) of the accuracy, and how
many seeds; the learning rate too, where the method was tried at several. Where it has two seeds or more in common with
the random masks of its block size and sparsity, or with the dense network, the mean difference by seed to them follows,
with the p of a paired t-test; and that p corrected by Holm's procedure for all methods of the table which are compared
with random masks. A method that stands beside random masks at three shapes (network, N, sparsity) or more has a line in
a second table: the mean of these differences, and the p of a t-test on them, which takes shapes as the sample.

    python scripts/plot_results.py results/protocol_sizes.csv results/protocol_small.csv

makes the page of the first file with the rows of all.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from subp.pruning.methods import DENSE, METHODS
from subp.training.experiments import read_rows
from subp_contract.files import write_atomically

NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG q75)", "imagenette-112": "Imagenette-112"}
SETTING = ("data", "size", "train_images", "network", "epochs", "held_out", "judged_on")
SAME = (*SETTING, "method", "variant", "n", "sparsity", "options")


@dataclass(frozen=True)
class Line:
    """Runs alike but for the seed. Accuracies and shares from 0 to 1; spread is None of one seed."""

    setting: tuple[str, ...]
    method: str
    rate: float | None  # of learning, where the file tells
    n: int | None
    sparsity: float
    mean: float
    spread: float | None
    seeds: int
    density: float
    mac_share: float
    by_seed: dict[str, float]

    @property
    def accuracy(self) -> str:
        """In per cent, with its spread."""
        return f"{100 * self.mean:.2f}" + ("" if self.spread is None else f" ± {100 * self.spread:.2f}")


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("others", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def command(results, others):
    """Make a page and a picture of RESULTS, beside it, with the rows of OTHERS."""
    lines = summarised([row for path in (results, *others) for row in read_rows(path)])
    write_atomically(results.with_suffix(".md"), page(lines, results.name).encode())
    write_atomically(results.with_suffix(".png"), picture(lines))
    click.echo(f"{results.with_suffix('.md')}, {results.with_suffix('.png')}: {len(lines)} lines")


def summarised(rows: Sequence[dict]) -> list[Line]:
    """A line for each set of runs alike, in the order of the first."""
    alike: dict[tuple, list[dict]] = {}
    for row in rows:
        alike.setdefault(tuple(row.get(name) or "" for name in SAME), []).append(row)
    return [_line(runs) for runs in alike.values()]


def _line(runs: Sequence[dict]) -> Line:
    first, accuracies = runs[0], [float(run["accuracy"]) for run in runs]
    method = first["method"] + (f" ({first['variant']})" if first["variant"] else "")
    return Line(
        setting=tuple(first.get(name) or "" for name in SETTING),
        method=method,
        rate=json.loads(first.get("options") or "{}").get("lr"),
        n=int(first["n"]) if first["method"] != DENSE and METHODS[first["method"]].uses_n else None,
        sparsity=0.0 if first["method"] == DENSE else float(first["sparsity"]),
        mean=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        seeds=len(runs),
        density=statistics.fmean(float(run["density"]) for run in runs),
        mac_share=statistics.fmean(float(run["mac_share"]) for run in runs),
        by_seed={run["seed"]: float(run["accuracy"]) for run in runs},
    )


def compared(line: Line, other: Line | None) -> tuple[float, float] | None:
    """The mean difference to another line over the seeds in common, in points, and the p of a paired t-test on them; of
    fewer than two seeds, or of differences that are all equal, nothing can be said.
    """
    from scipy.stats import ttest_rel

    seeds = sorted(line.by_seed.keys() & other.by_seed.keys()) if other and other is not line else []
    pairs = [(line.by_seed[seed], other.by_seed[seed]) for seed in seeds] if other else []
    differences = [100 * (own - its) for own, its in pairs]
    if len(pairs) < 2 or statistics.stdev(differences) < 1e-9:
        return None
    return statistics.fmean(differences), float(ttest_rel(*zip(*pairs, strict=True)).pvalue)


def against(line: Line, other: Line | None) -> str:
    """That, for a table."""
    found = compared(line, other)
    return f"{found[0]:+.2f} (p {found[1]:.2f})" if found else ""


def holm(p: Sequence[float]) -> list[float]:
    """Each p of a family of tests, corrected: of m, the k-th smallest times m - k + 1, no smaller than the one before
    it and at most 1 (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def by_holm(lines: Sequence[Line]) -> dict[int, float]:
    """id of a line -> its p against random masks, corrected for those of all the lines that share its masks' size and
    sparsity.
    """
    families: dict[tuple, dict[int, float]] = {}
    for line in lines:
        other = reference("random", line, lines)
        if line.method != DENSE and (found := compared(line, other)):
            families.setdefault((line.setting, line.n, line.sparsity), {})[id(line)] = found[1]
    return {key: p for of in families.values() for key, p in zip(of, holm(list(of.values())), strict=True)}


def over_shapes(lines: Sequence[Line], method: str) -> tuple[int, float, float] | None:
    """(shapes at which the method stands beside random masks, the mean of its differences to them there, in points, the
    p of a t-test on these differences); None of fewer than three shapes.
    """
    from scipy.stats import ttest_1samp

    own = [line for line in lines if line.method == method]
    found = [compared(line, reference("random", line, lines)) for line in own]
    differences = [each[0] for each in found if each]
    if len(differences) < 3:
        return None
    return len(differences), statistics.fmean(differences), float(ttest_1samp(differences, 0).pvalue)


def reference(method: str, line: Line, lines: Sequence[Line]) -> Line | None:
    """The line of that method in the same setting; of one with blocks, with the same block size and sparsity."""
    shape = (line.n, line.sparsity)
    fits = [other for other in lines if other.method == method and other.setting == line.setting]
    return next((other for other in fits if method == DENSE or (other.n, other.sparsity) == shape), None)


def named(line: Line, lines: Sequence[Line]) -> str:
    """The line's method, with its learning rate where these lines have the method at several."""
    rates = {other.rate for other in lines if other.method == line.method}
    return f"{line.method}, rate {line.rate}" if len(rates) > 1 else line.method


def page(lines: Sequence[Line], source: str) -> str:
    """Markdown: a table for each setting, by sparsity, best first."""
    parts = [
        f"# Methods compared\n\nMade from `{source}` by `scripts/plot_results.py`. "
        "Accuracy after the last epoch in per cent; mean ± standard\ndeviation over seeds; "
        "differences by seed, with the p of a paired t-test, and\nthat against random corrected by Holm's procedure.\n"
    ]
    corrected = by_holm(lines)
    for setting in dict.fromkeys(line.setting for line in lines):
        data, size, images, network, epochs, held_out, judged_on = setting
        judged = f", judged on {held_out} {judged_on} images" if judged_on == "validation" else ""
        parts.append(
            f"\n## {network} on {NAMES.get(data, data)}\n\n{images} training images of {size}x{size}, {epochs} "
            f"epochs{judged}.\n"
        )
        parts.append(
            "\n| method | 1xN | sparsity | accuracy | seeds | against random | p by Holm | against dense "
            "| weights kept | MACs kept |\n|---|---|---|---|---|---|---|---|---|---|\n"
        )
        of_setting = [line for line in lines if line.setting == setting]
        for line in sorted(of_setting, key=lambda line: (line.sparsity, -line.mean)):
            blocks = f"1x{line.n}" if line.n else "-"
            comparisons = (
                against(line, reference("random", line, lines)),
                f"{corrected[id(line)]:.2f}" if id(line) in corrected else "",
                against(line, reference(DENSE, line, lines)),
            )
            parts.append(
                f"| {named(line, of_setting)} | {blocks} | {line.sparsity:.0%} | {line.accuracy} | {line.seeds} | "
                f"{' | '.join(comparisons)} | {line.density:.1%} | {line.mac_share:.1%} |\n"
            )
    overall = {each: over_shapes(lines, each) for each in dict.fromkeys(line.method for line in lines) if each != DENSE}
    if any(overall.values()):
        parts.append("\n## Over all shapes\n\n| method | shapes | against random, mean | p |\n|---|---|---|---|\n")
        for method, (shapes, mean, p) in sorted(
            ((method, found) for method, found in overall.items() if found), key=lambda item: -item[1][1]
        ):
            parts.append(f"| {method} | {shapes} | {mean:+.2f} | {p:.3f} |\n")
    return "".join(parts) + f"\n![Accuracies]({Path(source).stem}.png)\n"


def picture(lines: Sequence[Line]) -> bytes:
    """A PNG: for each setting, accuracy by method at the sparsity with most lines, over sparsity, and over N."""
    import io

    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(line.setting for line in lines))
    figure = Figure(figsize=(15, 5.2 * len(settings)), layout="constrained")
    for part, setting in zip(figure.subfigures(len(settings), 1, squeeze=False)[:, 0], settings, strict=True):
        data, size, images, network, epochs, *_ = setting
        part.suptitle(f"{network} on {NAMES.get(data, data)}: {images} images of {size}x{size}, {epochs} epochs")
        row = part.subplots(1, 3)
        of_setting = [line for line in lines if line.setting == setting]
        sparse = [line.sparsity for line in of_setting if line.sparsity]
        common = statistics.mode(sparse) if sparse else 0.0
        sizes = [line.n for line in of_setting if line.n and line.sparsity]
        usual = statistics.mode(sizes) if sizes else None
        comparable = [line for line in of_setting if line.sparsity in (0.0, common) and line.n in (None, usual)]
        _bars(row[0], comparable, f"methods, {common:.0%} sparse, 1x{usual}")
        plain = [line for line in of_setting if line.n in (None, usual) and "(" not in line.method and line.sparsity]
        _curves(row[1], plain, "sparsity", f"over sparsity, 1x{usual}")
        _curves(
            row[2],
            [line for line in of_setting if line.n and line.sparsity == common and "(" not in line.method],
            "n",
            f"over the block size, {common:.0%} sparse",
        )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _bars(axes, lines: Sequence[Line], title: str) -> None:
    lines = sorted(lines, key=lambda line: line.mean)
    means, spreads = [100 * line.mean for line in lines], [100 * (line.spread or 0) for line in lines]
    bars = axes.barh([line.method for line in lines], means, xerr=spreads, color="#0b7a75")
    axes.bar_label(bars, [f"{mean:.1f}" for mean in means], padding=4, fontsize=8)
    axes.set_xlim(0, 1.12 * max(map(sum, zip(means, spreads, strict=True)), default=1))
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
    axes.set_xlabel("block size N" if over == "n" else "sparsity, %")
    values = sorted({getattr(line, over) for line in lines})
    axes.set_xticks(values, [f"{value:g}" if over == "n" else f"{100 * value:g}" for value in values])
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=10)


if __name__ == "__main__":
    command()
