"""Figures as SVG that stands in a page: lines and text take the page's colour, light or dark."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from subp.deployment.report.content import Blocks, Run

INK = "#010203"  # which stands for the page's own colour until the SVG is written
ACCENT, OTHER = "#0f8b8d", "#9aa5b1"
COLOURS = (ACCENT, "#d98324", "#7b6bb7", "#c8553d", "#5a9f4d", "#3f7cac")  # of kernels, on light and dark
STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",  # text stays text: it can be read aloud and searched for
    "svg.hashsalt": "subp",  # the same figure gives the same bytes
    "text.parse_math": False,  # a name may hold a dollar
    "font.family": "sans-serif",
    "axes.ymargin": 0.02,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def curves(run: Run) -> str:
    """Loss, accuracy and density over the epochs, which count from 1."""
    epochs = range(1, len(run.history) + 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        losses, accuracies, densities = figure.subplots(1, 3)
        for axes, title, names in (
            (losses, "loss", ("train_loss", "val_loss")),
            (accuracies, "accuracy, %", ("train_accuracy", "val_accuracy")),
            (densities, "weights kept, %", ("density",)),
        ):
            scale = 1 if title == "loss" else 100
            for name, colour in zip(names, (OTHER, ACCENT) if len(names) > 1 else (ACCENT,), strict=True):
                values = [scale * row.get(name, float("nan")) for row in run.history]
                axes.plot(epochs, values, "o-", color=colour, markersize=3, label=name.partition("_")[0])
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("epoch", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
            if len(names) > 1:
                axes.legend(frameon=False, fontsize=8, loc="upper right" if title == "loss" else "lower right")
        return _svg(figure, f"loss, accuracy and density of {run.name} over {len(epochs)} epochs")


def densities(run: Run) -> str:
    """A bar a layer: how many of its weights are kept."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.2 * len(run.layers)), layout="constrained")
        axes = figure.subplots()
        colours = [ACCENT if layer.n else OTHER for layer in run.layers]
        axes.barh([layer.name for layer in run.layers], [100 * layer.density for layer in run.layers], color=colours)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("weights kept, % (grey: dense)", fontsize=9)
        axes.tick_params(labelsize=8)
        return _svg(figure, f"share of each layer's weights that {run.name} keeps")


def churn(run: Run) -> str:
    """Two maps, a layer a line and an epoch a column: which share of the blocks is newly pruned, and newly kept."""
    edges = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # per cent: a first step moves most, later ones little
    shades = ListedColormap([(*to_rgb(ACCENT), each) for each in np.linspace(0.2, 1, len(edges) - 1)])
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 1.2 + 0.2 * len(run.churn)), layout="constrained")
        for axes, title, count in zip(
            figure.subplots(1, 2, sharey=True), ("newly pruned", "newly kept"), ("pruned", "grown"), strict=True
        ):
            shares = np.full((len(run.churn), len(run.history)), np.nan)
            for line, epochs in enumerate(run.churn.values()):
                for epoch, moved in epochs.items():
                    shares[line, epoch - 1] = 100 * getattr(moved, count) / moved.of or np.nan  # nothing is no colour
            drawn = axes.pcolormesh(
                np.arange(len(run.history) + 1) + 0.5,
                np.arange(len(run.churn) + 1) - 0.5,
                shares,
                cmap=shades,
                norm=BoundaryNorm(edges, len(edges) - 1),
                rasterized=shares.size > 4096,
            )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("epoch", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_yticks(range(len(run.churn)), list(run.churn))
            axes.tick_params(labelsize=8)
        axes.invert_yaxis()  # of both
        bar = figure.colorbar(drawn, ax=figure.axes, ticks=edges, format="%g", spacing="uniform")
        bar.set_label("% of the layer's blocks", fontsize=9)
        bar.ax.tick_params(labelsize=8)
        return _svg(figure, f"blocks that {run.name} newly pruned and newly kept, by layer and epoch")


def blocks(held: Blocks) -> str:
    """Which blocks a layer keeps: a row of outputs a line, an input channel a column."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + min(4.0, 0.25 * len(held.kept))), layout="constrained")
        axes = figure.subplots()
        axes.pcolormesh(
            np.where(held.kept, 1.0, np.nan), cmap=ListedColormap([ACCENT]), rasterized=held.kept.size > 4096
        )
        axes.invert_yaxis()
        axes.set_xlabel("input channel", fontsize=9)
        axes.set_ylabel(f"row of {held.n} outputs", fontsize=9)
        return _svg(figure, f"kept blocks of {held.layer}")


def latencies(rows: Sequence[dict], title: str) -> str:
    """A bar a row, from 0: its median, the fastest on top; ours in colour, by precision."""
    rows = sorted(rows, key=lambda row: row["median_ms"])
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        medians = [row["median_ms"] for row in rows]
        precisions = {each: COLOURS[number % len(COLOURS)] for number, each in enumerate(_precisions(rows))}
        ours = [row["engine"].startswith("subp") for row in rows]
        colours = [
            precisions[row.get("precision", "float32")] if own else OTHER for row, own in zip(rows, ours, strict=True)
        ]
        bars = axes.barh([str(place) for place in range(len(rows))], medians, color=colours)
        axes.set_yticks(range(len(rows)), [label(row) for row in rows])
        axes.bar_label(bars, [f"{ms:.3g} ms" for ms in medians], padding=4, fontsize=8)
        axes.set_xlim(0, 1.15 * max(medians))
        axes.invert_yaxis()
        axes.set_xlabel("median latency, ms (less is better)", fontsize=9)
        axes.tick_params(labelsize=8)
        if len(precisions) > 1:
            told = {f"subp, {precision}": colour for precision, colour in precisions.items()} | {"others": OTHER}
            patches = [Patch(color=colour, label=label) for label, colour in told.items()]
            axes.legend(handles=patches, frameon=False, fontsize=8, loc="upper right")  # where bars are shortest
        return _svg(figure, f"latency of {title}")


def layer_times(steps: Sequence[dict], title: str) -> str:
    """A bar a call, in their order, coloured by its kernel and labelled with its share of the peak."""
    kernels = list(dict.fromkeys(step["kernel"] for step in steps if step["layer"]))
    colours = {kernel: COLOURS[number % len(COLOURS)] for number, kernel in enumerate(kernels)}
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.22 * len(steps)), layout="constrained")
        axes = figure.subplots()
        times = [max(step["median_us"], 0) for step in steps]
        bars = axes.barh(range(len(steps)), times, color=[colours.get(step["kernel"], OTHER) for step in steps])
        axes.set_yticks(range(len(steps)), [step["layer"] or step["kernel"] for step in steps])
        shares = [step.get("share_of_peak") for step in steps]
        axes.bar_label(bars, ["" if share is None else f"{share:.0%}" for share in shares], padding=4, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.1 * max(times, default=1) or 1)
        axes.set_xlabel("median time of a call, us; in per cent its share of the peak (grey: no layer)", fontsize=9)
        axes.tick_params(labelsize=7)
        patches = [Patch(color=colour, label=kernel) for kernel, colour in colours.items()]
        if patches:
            figure.legend(handles=patches, frameon=False, fontsize=8, loc="outside upper left", ncols=3)
        return _svg(figure, f"time of each layer of {title}")


def speedups_of(rows: Sequence[dict]) -> dict[str, list[tuple[float, float]]]:
    """Precision -> (sparsity, times as fast as the fastest dense engine of that precision) of our builds, where
    there are two sparsities or more.
    """
    found = {}
    for precision in _precisions(rows):
        alike = [row for row in rows if row.get("precision", "float32") == precision]
        ours = {skipped(row): row["median_ms"] for row in alike if row["engine"].startswith("subp")}
        dense = [row["median_ms"] for row in alike if not skipped(row)]
        if len(ours) > 1 and dense:
            found[precision] = [(sparsity, min(dense) / ours[sparsity]) for sparsity in sorted(ours)]
    return found


def _precisions(rows: Sequence[dict]) -> list[str]:
    """Those of the rows, in one order for all figures."""
    return sorted({row.get("precision", "float32") for row in rows})


def skipped(row: dict) -> float:
    """The sparsity of the network, where the row's engine makes use of it: our builds that are not dense alone do."""
    is_ours = row["engine"].startswith("subp") and row["engine"] != "subp-dense"
    return (row.get("sparsity") or 0.0) if is_ours else 0.0


def speedups(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """What `speedups_of` found, with the break-even."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        axes = figure.subplots()
        for number, (precision, points) in enumerate(lines.items()):
            sparsities, times = zip(*points, strict=True)
            at = [100 * each for each in sparsities]
            axes.plot(at, times, "o-", color=COLOURS[number % len(COLOURS)], label=precision)
        axes.axhline(1, color=OTHER, linestyle=":")
        axes.annotate("break-even", (1, 1), xycoords=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
        axes.set_ylim(0, 1.05 * max(1, *(times for points in lines.values() for _, times in points)))
        axes.set_xlabel("blocks pruned, %", fontsize=9)
        axes.set_ylabel("times as fast as\nthe fastest dense", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure, f"speed-up of {title} by sparsity")


def label(row: dict) -> str:
    """An engine and what distinguishes its row."""
    pruned = f", 1x{row['n']} {skipped(row):.0%}" if row.get("n") and skipped(row) else ""
    precision = row.get("precision", "float32")
    numbers = "" if precision == "float32" or row["engine"].endswith(precision) else f", {precision}"
    return f"{row['engine']}{pruned}{numbers}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def _svg(figure: Figure, described: str) -> str:
    """The figure's SVG element, as wide as its place, with words for who cannot see it."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: the reader's fonts have it
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": described})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)
