"""The page: one HTML file with all in it, for any browser, without a network, light or dark, narrow or wide."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from jinja2 import Environment

from subp.common.provenance import provenance
from subp.deployment.report import figures
from subp.deployment.report.content import OF_ROW, OPTIONAL, Content, Run

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { border-top: 1px solid var(--line); padding-top: 1rem; }
svg { width: 100%; height: auto; }
.figure, .table { overflow-x: auto; } .figure svg { min-width: 34rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; } footer { font-size: .85rem; opacity: .8; }
</style>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.words %}<p>{{ section.words }}</p>{% endif %}
{% for part in section.parts %}
{% if part.title %}<h3>{{ part.title }}</h3>{% endif %}
{% if part.figure %}<div class="figure">{{ part.figure | safe }}</div>{% endif %}
{% if part.rows %}<details{% if not part.figure and part.rows | length < 10 %} open{% endif %}>
<summary>Numbers</summary><div class="table"><table>
<thead><tr>{% for name in part.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></details>{% endif %}
{% endfor %}
{% endfor %}
<footer><h2>Made</h2><div class="table"><table><tbody>{% for name, value in made %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</tbody></table></div></footer>
</html>
"""

EPOCH = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "density", "lr", "images_per_s")
MOST_ROWS = 2000  # of one table: a page of some hundred kB, which opens at once


def page(content: Content, title: str = "subp report") -> str:
    """The HTML of all that the content holds; every number of a figure stands in a table below it."""
    sections = [_of_run(run) for run in content.runs]
    for measured in content.measurements:
        parts = _of_accuracies(measured.accuracies)
        for network, rows in groupby(sorted(measured.rows, key=_network), key=_network):
            parts += _of_network(network, list(rows))
        parts += [_of_profile(profile, measured.rows[0]["network"]) for profile in measured.profiles]
        machine = ", ".join(f"{name} {_words(value)}" for name, value in measured.machine.items() if value is not None)
        sections.append({"title": f"Measured: {measured.name}", "words": machine, "parts": parts})
    made = {name: value for name, value in provenance().items() if name != "versions"}
    made |= provenance()["versions"]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(title=title, sections=sections, made=list(made.items()))


def _of_run(run: Run) -> dict:
    parts = []
    if run.history:
        rows = [[number, *(_number(row.get(name)) for name in EPOCH[1:])] for number, row in enumerate(run.history, 1)]
        parts.append({"title": "Training", "figure": figures.curves(run), "columns": EPOCH, "rows": rows})
    columns = ("layer", "type", "weight", "n", "kept", "uniform", "MACs", "MACs kept")
    rows = [
        [
            *(layer.name, layer.type, "x".join(map(str, layer.shape)), layer.n or "-", f"{layer.density:.1%}"),
            *("-" if layer.uniform is None else "yes" if layer.uniform else "no", layer.macs, layer.sparse_macs),
        ]
        for layer in run.layers
    ]
    figure = figures.densities(run) if any(layer.n for layer in run.layers) else None
    parts.append({"title": "Layers", "figure": figure, "columns": columns, "rows": rows})
    if run.churn:
        parts += _of_churn(run)
    if run.blocks:
        counts = run.blocks.kept.sum(1).tolist()
        rows = [[number, count] for number, count in enumerate(counts)]
        title = (
            f"Blocks of {run.blocks.layer}, 1x{run.blocks.n}: {_kept(counts)} of {run.blocks.kept.shape[1]} in a row"
        )
        columns = (f"row of {run.blocks.n} outputs", "blocks kept")
        parts.append({"title": title, "figure": figures.blocks(run.blocks), "columns": columns, "rows": rows})
    words = ", ".join(f"{name} {value}" for name, value in run.about.items())
    return {"title": f"Run: {run.name}", "words": words, "parts": parts}


def _of_churn(run: Run) -> list[dict]:
    """Sums over epochs and over layers; and each line of masks.csv, where they are not too many."""
    counts = ("kept", "of", "newly pruned", "newly kept")
    each = [(epoch, layer, moved) for layer, epochs in run.churn.items() for epoch, moved in epochs.items()]
    each.sort(key=itemgetter(0))  # layers stay in order
    by_layer = []
    for layer, epochs in run.churn.items():
        moved = list(epochs.values())
        sums = sum(one.pruned for one in moved), sum(one.grown for one in moved)
        by_layer.append([layer, moved[-1].kept, moved[-1].of, *sums])
    by_epoch = [
        [epoch, *map(sum, zip(*(moved for *_, moved in rows), strict=True))]
        for epoch, rows in groupby(each, key=itemgetter(0))
    ]
    words = "Masks that moved"
    figure = figures.churn(run)
    parts: list[dict] = [
        {"title": f"{words}, by layer", "figure": figure, "columns": ("layer", *counts), "rows": by_layer},
        {"title": f"{words}, by epoch", "columns": ("epoch", *counts), "rows": by_epoch},
    ]
    if len(each) <= MOST_ROWS:
        rows = [[epoch, layer, *moved] for epoch, layer, moved in each]
        parts.append({"title": f"{words}, each", "columns": ("epoch", "layer", *counts), "rows": rows})
    return parts


def _of_accuracies(accuracies: dict[str, float]) -> list[dict]:
    rows = [[name, f"{accuracy:.2%}"] for name, accuracy in accuracies.items()]
    return [{"title": "Accuracy", "columns": ["network", "right on the test images"], "rows": rows}] if rows else []


def _of_network(network: str, rows: list[dict]) -> list[dict]:
    columns = [name for name in (*OF_ROW, *OPTIONAL) if any(row.get(name) is not None for row in rows)]
    cells = [[_number(row.get(name)) for name in columns] for row in sorted(rows, key=lambda row: row["median_ms"])]
    parts = [{"title": network, "figure": figures.latencies(rows, network), "columns": columns, "rows": cells}]
    if lines := figures.speedups_of(rows):
        figure = figures.speedups(lines, network)
        columns = ["precision", "blocks pruned", "times as fast as the fastest dense"]
        cells = [
            [precision, f"{sparsity:.0%}", _number(times)]
            for precision, points in lines.items()
            for sparsity, times in points
        ]
        parts.append({"title": f"{network}: speed-up by sparsity", "figure": figure, "columns": columns, "rows": cells})
    return parts


def _of_profile(profile: dict, network: str) -> dict:
    name = profile.get("network") or network
    pruned = f", {profile['sparsity']:.0%} pruned" if profile.get("sparsity") else ""
    threads = f", {profile['threads']} threads" if (profile.get("threads") or 1) > 1 else ""
    numbers = f", {profile['precision']}" if profile.get("precision", "float32") != "float32" else ""
    title = f"{name}{pruned}{numbers}{threads}: where the time goes"
    columns = ("layer", "kernel", "median us", "share of peak")
    rows = [
        [step["layer"] or "-", step["kernel"], _number(step["median_us"]), _number(step.get("share_of_peak"))]
        for step in profile["steps"]
    ]
    return {"title": title, "figure": figures.layer_times(profile["steps"], title), "columns": columns, "rows": rows}


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _network(row: dict) -> str:
    return f"{row['network']}, batch {row.get('batch', 1)}"


def _kept(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _number(value: object) -> str:
    """A number with four digits that count, other values as they are."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
