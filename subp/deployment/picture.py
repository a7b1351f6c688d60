"""The quickstart's result as one picture: accuracies, then latencies of each network's engines."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tvm_sched.bench.rows import Row

LABELS = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "subp-dense": "subp, dense",
    "subp-sparse": "subp, 1xN sparse",
}
GREY, ACCENT = "#9aa5b1", "#0b7a75"


def draw(accuracies: Mapping[str, float], networks: Mapping[str, Sequence["Row"]], machine: str) -> bytes:
    """A PNG: accuracies (label -> 0 to 1) on the left, then for each title in `networks` the rows' median latencies."""
    from matplotlib.figure import Figure

    bars = max(map(len, networks.values()))
    figure = Figure(figsize=(4 + 4.5 * len(networks), max(3.4, 1 + 0.34 * bars)), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(networks), width_ratios=[2] + [3] * len(networks))
    _accuracies(left, accuracies)
    for axes, (title, rows) in zip(others, networks.items(), strict=True):
        _latencies(axes, title, rows)
    figure.supxlabel(machine, fontsize=8, color="#52606d")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _accuracies(axes: "Axes", accuracies: Mapping[str, float]) -> None:
    values = [100 * accuracy for accuracy in accuracies.values()]
    bars = axes.bar(list(accuracies), values, color=[GREY, ACCENT], width=0.6)
    axes.bar_label(bars, fmt="%.1f %%", padding=2)
    axes.set_ylim(0, 112)
    axes.set_yticks([0, 50, 100])
    axes.set_title("test accuracy", fontsize=11)
    _bare(axes)


def _latencies(axes: "Axes", title: str, rows: Sequence["Row"]) -> None:
    rows = sorted(rows, key=lambda row: row.median_ms)  # barh draws upwards; inverted below, the fastest on top
    colours = [ACCENT if row.engine == "subp-sparse" else GREY for row in rows]
    medians = [row.median_ms for row in rows]
    bars = axes.barh(list(map(label, rows)), medians, color=colours, height=0.62)
    axes.bar_label(bars, [f"{row.median_ms:.3g} ms" for row in rows], padding=4)
    axes.set_xlim(0, 1.25 * max(medians))
    axes.invert_yaxis()
    axes.set_xlabel("median latency, ms (less is better)", fontsize=9)
    axes.set_title(title, fontsize=11)
    _bare(axes)


def label(row: "Row") -> str:
    """The row's engine in words."""
    engine = row.engine.removesuffix("-int8")
    return LABELS.get(engine, engine) + (", int8" if row.precision == "int8" else "")


def _bare(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
