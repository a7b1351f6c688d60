#!/usr/bin/env python
"""Accuracy against measured latency: networks that scripts/compare_methods.py trained, compiled in float32 and 8 bits.

    python scripts/pareto.py build results/protocol_small.csv results/protocol_pareto.csv --method rigl \\
        --data DIR --work runs/methods --to runs/pareto
    python scripts/pareto.py measure runs/pareto -o results/pareto.csv        # and results/pareto.png

`build` takes the dense networks among the rows that were judged on test images, and those of the method, of seed 0: it
compiles each for this machine and one thread, calibrates it on training images for 8 bits, and counts what both builds
get right of the test images. `measure` calls all of them in turn, one image at a time. Accuracies in the result are
means over the seeds in the rows, in 8 bits what the network of seed 0 loses besides.
"""

import csv
import io
import json
import statistics
import time
from pathlib import Path

import click

from subp.pruning.methods import DENSE
from subp_contract.files import write_atomically

COLUMNS = ("network", "method", "n", "sparsity", "precision", "seeds", "accuracy", "spread", "ms", "multiply_adds")
ABOUT = "networks.json"  # what the folder between both steps holds, besides the compiled networks


@click.group()
def command():
    """Accuracy against measured latency."""


@command.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--method", multiple=True, default=("rigl",), show_default=True, help="Of the sparse ones; repeatable.")
@click.option("--data", envvar="SUBP_DATA", required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--work", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Of compare_methods.py."
)
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--threads", default=1, show_default=True, help="CPU threads, of calibration.")
def build(results, method, data, work, folder, threads):
    """Compile the networks of the rows of RESULTS; those that are compiled already stay."""
    import torch

    from subp.training.experiments import read_rows

    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for path in results for row in read_rows(path)]
    alike: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["judged_on"] == "test" and not row["variant"] and row["method"] in (DENSE, *method):
            sparse = row["method"] != DENSE
            key = (row["network"], row["method"], row["n"] if sparse else "", row["sparsity"] if sparse else "0.0")
            alike.setdefault(key, []).append(row)
    about = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).exists() else {}
    for key, runs in alike.items():
        name = "-".join(key).replace("+", "p")
        first = next((run for run in runs if run["seed"] == "0"), None)
        trained = first and next((path for each in work if (path := each / f"cell-{first['cell']}").exists()), None)
        if not trained:
            click.echo(f"{name}: the network of seed 0 is in none of the folders, left out")
            continue
        accuracies = [float(run["accuracy"]) for run in runs]
        about[name] = about.get(name, {}) | dict(zip(COLUMNS[:4], key, strict=True))
        about[name] |= {"seeds": len(runs), "accuracy": statistics.fmean(accuracies)}
        about[name] |= {"spread": statistics.stdev(accuracies) if len(runs) > 1 else 0.0}
        if "lost" not in about[name]:
            about[name] |= compiled(first, trained, data, folder / name)
        write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())
        click.echo(f"{name}: {about[name]['accuracy']:.2%}, in 8 bits {about[name]['lost']:+.2%} less")


def compiled(row, trained, root, path):
    """Writes PATH-float32.so and PATH-int8.so; returns what 8 bits lose of the test images, and the multiply-adds."""
    import torch

    import tvm_sched
    from subp import models
    from subp.data import transforms
    from subp.deployment import quantised
    from subp.deployment.low_precision import CALIBRATION_IMAGES
    from subp.pruning.summary import inspect
    from subp.training import experiments
    from subp.training.run_files import MODEL

    settings = {name: int(row[name]) for name in ("size", "train_images", "held_out")}
    cell = experiments.Cell(
        data=row["data"], network=row["network"], method=row["method"], n=int(row["n"]), sparsity=0.0, epochs=1, seed=0,
        batch_size=1, lr=0.1, judged_on="test", **settings,
    )  # fmt: skip
    data = experiments.load(cell, root)
    channels = data.preprocessing.shape[0]
    model = models.create(row["network"], len(data.classes), channels, trained / MODEL).eval()
    images, labels = data.val.tensors
    inputs = transforms.evaluation(data.preprocessing)(images)
    quantised_program = tvm_sched.quantize(model, quantised.chosen(data, CALIBRATION_IMAGES, quantised.BATCH, 0))
    right = {}
    for precision, network in (("float32", model), ("int8", quantised_program)):
        dense = precision == "float32" and row["method"] == DENSE
        artifact = tvm_sched.compile(network, inputs[:1], threads=1, dense=dense)
        artifact.save(Path(f"{path}-{precision}.so"))
        answers = torch.tensor([int(torch.as_tensor(artifact(image[None])).argmax()) for image in inputs])
        right[precision] = float((answers == labels).float().mean())
    layers = inspect(model, data.preprocessing.shape)
    return {"lost": right["float32"] - right["int8"], "multiply_adds": sum(layer.sparse_macs for layer in layers)}


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("results/pareto.csv"))
@click.option("--calls", default=2000, show_default=True, help="Of each network.")
def measure(folder, output, calls):
    """Time the networks in FOLDER in turn; write a table and a picture of them."""
    import torch

    import tvm_sched

    about = json.loads((folder / ABOUT).read_text())
    made = {
        (name, precision): tvm_sched.load(folder / f"{name}-{precision}.so")
        for name in about
        for precision in ("float32", "int8")
    }
    size = next(iter(made.values())).manifest["inputs"][0]["shape"]
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for turn in range(calls // 20 + 1):
        for key, artifact in made.items():
            for _ in range(20):  # in a row, so that one finds its weights in the caches
                started = time.perf_counter()
                artifact(x)
                if turn:
                    times[key].append(time.perf_counter() - started)
    rows = [
        {column: about[name].get(column) for column in COLUMNS}
        | {"precision": precision, "ms": round(1e3 * statistics.median(times[name, precision]), 4)}
        | {"accuracy": round(about[name]["accuracy"] - (about[name]["lost"] if precision == "int8" else 0), 5)}
        | {"spread": round(about[name]["spread"], 5)}
        for name, precision in made
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["precision"], row["ms"])))
    write_atomically(output, text.getvalue().encode())
    write_atomically(output.with_suffix(".png"), picture(rows))
    click.echo(text.getvalue())


def picture(rows) -> bytes:
    """A PNG: accuracy over milliseconds, a curve for the dense networks and points for the sparse ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, precision in zip(figure.subplots(1, 2, sharey=True), ("float32", "int8"), strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            points = sorted(
                (row for row in rows if row["method"] == method and row["precision"] == precision),
                key=lambda row: row["ms"],
            )
            at, means = [row["ms"] for row in points], [100 * row["accuracy"] for row in points]
            line = "o-" if method == DENSE else "s"
            axes.errorbar(at, means, [100 * row["spread"] for row in points], fmt=line, capsize=3, label=method)
            for row, x, y in zip(points, at, means, strict=True):
                width = row["network"].partition("_x")[2].replace("_", ".") or "1"
                sparsity = f", {float(row['sparsity']):.0%}" if method != DENSE else ""
                axes.annotate(f"x{width}{sparsity}", (x, y), (5, -11), textcoords="offset points", fontsize=8)
        axes.set_xlabel("milliseconds")
        axes.set_title(precision, fontsize=10)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("accuracy, %")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


if __name__ == "__main__":
    command()
