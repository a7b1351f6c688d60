"""Figures as SVG that stands in a page: lines and text take the page's colour, light or dark."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subp.deployment.report.content import Blocks, Run

INK = "#010203"  # which stands for the page's own colour until the SVG is written
ACCENT, OTHER = "#0f8b8d", "#9aa5b1"
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
                axes.legend(frameon=False, fontsize=8)
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


def blocks(held: Blocks) -> str:
    """Which blocks a layer keeps: a row of outputs a line, an input channel a column."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + min(4.0, 0.25 * len(held.kept))), layout="constrained")
        axes = figure.subplots()
        axes.pcolormesh(np.where(held.kept, 1.0, np.nan), cmap=_one_colour(), rasterized=held.kept.size > 4096)
        axes.invert_yaxis()
        axes.set_xlabel("input channel", fontsize=9)
        axes.set_ylabel(f"row of {held.n} outputs", fontsize=9)
        return _svg(figure, f"kept blocks of {held.layer}")


def latencies(rows: Sequence[dict], title: str) -> str:
    """A bar a row, from 0: its median, the fastest on top."""
    rows = sorted(rows, key=lambda row: row["median_ms"])
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        medians = [row["median_ms"] for row in rows]
        colours = [ACCENT if row["engine"].startswith("subp") else OTHER for row in rows]
        bars = axes.barh([str(place) for place in range(len(rows))], medians, color=colours)
        axes.set_yticks(range(len(rows)), [label(row) for row in rows])
        axes.bar_label(bars, [f"{ms:.3g} ms" for ms in medians], padding=4, fontsize=8)
        axes.set_xlim(0, 1.15 * max(medians))
        axes.invert_yaxis()
        axes.set_xlabel("median latency, ms (less is better)", fontsize=9)
        axes.tick_params(labelsize=8)
        return _svg(figure, f"latency of {title}")


def speedups(rows: Sequence[dict], title: str) -> str | None:
    """Our times over the fastest dense engine's, by sparsity, with the break-even; None with fewer than two
    sparsities.
    """
    ours = {row.get("sparsity", 0): row["median_ms"] for row in rows if row["engine"].startswith("subp")}
    dense = [row["median_ms"] for row in rows if not row.get("sparsity") or not row["engine"].startswith("subp")]
    if len(ours) < 2 or not dense:
        return None
    shown = sorted(ours)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot([100 * each for each in shown], [min(dense) / ours[each] for each in shown], "o-", color=ACCENT)
        axes.axhline(1, color=OTHER, linestyle=":")
        axes.text(100 * shown[0], 1, " break-even", va="bottom", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("blocks pruned, %", fontsize=9)
        axes.set_ylabel("times as fast as the fastest dense", fontsize=9)
        return _svg(figure, f"speed-up of {title} by sparsity")


def label(row: dict) -> str:
    """An engine and what distinguishes its row."""
    pruned = f", 1x{row['n']} {row.get('sparsity', 0):.0%}" if row.get("n") and row["engine"].startswith("subp") else ""
    numbers = "" if row.get("precision", "float32") == "float32" else f", {row['precision']}"
    return f"{row['engine']}{pruned}{numbers}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def _one_colour() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([ACCENT])


def _svg(figure: Figure, described: str) -> str:
    """The figure's SVG element, as wide as its place, with words for who cannot see it."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: the reader's fonts have it
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": described})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)
