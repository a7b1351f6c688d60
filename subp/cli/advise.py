"""`subp advise`: which block size and sparsity for a network on a CPU, before anything is trained or compiled."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options import INPUT_FILE, Numbers, OutputFile, target_option
from subp.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from tvm_sched.passes.layer_plan import Layer
    from tvm_sched.targets import Target

SIZES = [4, 8, 16, 32, 64]
SPARSITIES = [50, 60, 70, 75, 80, 90, 95]  # per cent
GHZ = {"cortex-a76": 2.4}  # Raspberry Pi 5
OTHER_GHZ = 3.0


@dataclass(frozen=True)
class Choice:
    """A way to prune the network. n is None for the dense one; accuracy where one was measured, with its seeds."""

    n: int | None
    sparsity: float
    ms: float
    accuracy: float | None = None
    seeds: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"1x{self.n}, {self.sparsity:.0%}" if self.n else "dense"


@click.command()
@click.argument("model")
@target_option
@click.option("--size", type=click.IntRange(1), default=224, show_default=True, help="Height and width of the images.")
@click.option("--n", "sizes", type=Numbers(), default=SIZES, help="Block sizes, comma-separated.  [default: 4,8,16,32,64]")
@click.option("--sparsity", "sparsities", type=Numbers(), default=SPARSITIES, help="Per cent, comma-separated.  [default: 50 to 95]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores that share each layer.")
@click.option("--ghz", type=float, help="The CPU's frequency.  [default: 2.4 for cortex-a76, else 3.0]")
@click.option("--results", type=INPUT_FILE, help="CSV of scripts/compare_methods.py: measured accuracies stand beside the latencies.")
@click.option("--network", help="The network's name in that file.  [default: MODEL]")
@click.option("--method", default="subp", show_default=True, help="The method in that file.")
@click.option("--picture", type=OutputFile(), help="A .png to write: latency against sparsity, or against accuracy with its Pareto front.")
def command(model, target, size, sizes, sparsities, threads, ghz, results, network, method, picture) -> None:
    """Estimate MODEL's latency for block sizes and sparsities, and show accuracies beside it.

    MODEL is a network's name or a checkpoint. Latencies are estimates of convolutions and linear layers alone, by the
    model of the machine that chooses kernels: read the ratios. `subp bench` measures.
    """
    from dataclasses import replace

    from subp.checkpoint import write_atomically
    from subp.cli.terminal import console
    from tvm_sched import targets

    if any(sparsity >= 100 for sparsity in sparsities):
        raise UserError(f"sparsities are per cent below 100, not {max(sparsities)}")
    cpu = replace(targets.get(target), cores=threads)
    ghz = ghz or GHZ.get(cpu.family, OTHER_GHZ)
    module, in_channels = _network(model)
    choices = estimated(module, (in_channels, size, size), cpu, sizes, [each / 100 for each in sparsities], ghz)
    if results:
        choices = with_accuracies(choices, results, network or model, method)
    title = f"{model} at {size}x{size}, {target}, {threads} thread{'s' * (threads > 1)} at {ghz:g} GHz: estimated"
    console().print(table(choices, title))
    if picture:
        write_atomically(picture, draw(choices, title))


def _network(model: str) -> tuple["nn.Module", int]:
    """(the network, its input channels)"""
    from subp import checkpoint, models
    from subp.cli.networks import CLASSES

    if not model.endswith(".safetensors"):
        return models.create(model, CLASSES), 3
    module, metadata = checkpoint.load_model(model)
    return module, metadata["architecture"]["in_channels"]


def estimated(
    module: "nn.Module", input_shape: Sequence[int], target: "Target", sizes: Sequence[int], sparsities: Sequence[float], ghz: float
) -> list[Choice]:
    """The dense network, then every block size at every sparsity that leaves a layer to prune."""
    from tvm_sched.plan_costs import network_cycles

    layers = trace(module, input_shape)
    choices = [Choice(None, 0.0, network_cycles(list(layers.values()), target) / ghz / 1e6)]
    for n in sizes:
        for sparsity in sparsities:
            pruned = with_zeros(module, layers, n, sparsity)
            choices.append(Choice(n, sparsity, network_cycles(list(pruned.values()), target) / ghz / 1e6))
    return choices


def trace(module: "nn.Module", input_shape: Sequence[int]) -> dict[str, "Layer"]:
    """The convolutions and linear layers that run on one image, as if dense, by name."""
    import numpy as np
    import torch

    from tvm_sched.passes.layer_plan import Layer

    layers = {}

    def note(name):
        def hook(layer, inputs, output):
            if isinstance(layer, torch.nn.Conv2d):
                top, left = layer.padding if isinstance(layer.padding, tuple) else (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
                geometry = (layer.groups, layer.stride, (top, left, top, left), layer.dilation)
                image, channels = (output.shape[0], *output.shape[2:]), layer.in_channels
            else:
                geometry, image, channels = (), (1, 1, output.numel() // layer.out_features), layer.in_features
            shape = tuple(layer.weight.shape)
            weight = np.ones(shape + (1,) * (4 - len(shape)), "float32")
            layers[name] = Layer(type(layer).__name__, weight, image, channels, *geometry)

        return hook

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [layer.register_forward_hook(note(name)) for name, layer in module.named_modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *input_shape))
    for hook in hooks:
        hook.remove()
    return layers


def with_zeros(module: "nn.Module", layers: dict[str, "Layer"], n: int, sparsity: float) -> dict[str, "Layer"]:
    """The layers with random uniform 1xN zeros in those that would be pruned."""
    from dataclasses import replace

    from subp.blocks import expand_mask
    from subp.methods import random_uniform
    from subp.seeds import generator
    from subp.selection import block_size, select_layers

    pruned = dict(layers)
    for name, place in select_layers(module, n)[0].items():
        if name in layers:
            weight = layers[name].weight
            mask = random_uniform.step(weight.shape[0] // block_size(place, n), weight.shape[1], sparsity, generator(0, name))
            pruned[name] = replace(layers[name], weight=weight * expand_mask(mask, weight.shape).numpy())
    return pruned


def with_accuracies(choices: Sequence[Choice], results: Path, network: str, method: str) -> list[Choice]:
    """The choices with the mean accuracies that the CSV file has of them; its `dense` rows are the dense network's."""
    from dataclasses import replace

    columns = ("network", "method", "n", "sparsity", "accuracy")
    found: dict[tuple, list[float]] = {}
    try:
        with open(results, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if not row.get("variant")]
        if not all(row.get(column) is not None for row in rows for column in columns):
            raise ValueError(f"a row needs {', '.join(columns)}")
        rows = [row for row in rows if row["network"] == network]
        for row in rows:
            if row["method"] in (method, "dense"):
                key = (None, 0.0) if row["method"] == "dense" else (int(row["n"]), float(row["sparsity"]))
                found.setdefault(key, []).append(float(row["accuracy"]))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{results} is no CSV file of results: {error}") from error
    if not rows:
        raise UserError(f"{results} has no row of the network {network!r}: name one with --network")
    return [
        replace(choice, accuracy=statistics.fmean(found[key]), seeds=len(found[key])) if (key := (choice.n, choice.sparsity)) in found else choice
        for choice in choices
    ]


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """Those with a measured accuracy that no faster one reaches, the fastest first."""
    front: list[Choice] = []
    for choice in sorted((each for each in choices if each.accuracy is not None), key=lambda each: (each.ms, -each.accuracy)):
        if not front or choice.accuracy > front[-1].accuracy:
            front.append(choice)
    return front


def table(choices: Sequence[Choice], title: str):
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
    rows.caption = "ms and times as fast as dense; * the fastest of its line; accuracy where measured"
    return rows


def _cell(choice: Choice, dense: Choice) -> str:
    accuracy = f", {choice.accuracy:.1%}" if choice.accuracy is not None else ""
    return f"{choice.ms:.3g} ms {dense.ms / choice.ms:.2f}x{accuracy}"


def draw(choices: Sequence[Choice], title: str) -> bytes:
    """A PNG: accuracy over latency with the Pareto front where accuracies are known, else latency over sparsity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    front = pareto(choices)
    for n in dict.fromkeys(choice.n for choice in choices[1:]):
        line = [choice for choice in choices if choice.n == n]
        label = f"1x{n}"
        if front:
            line = [choice for choice in line if choice.accuracy is not None]
            axes.plot([each.ms for each in line], [100 * each.accuracy for each in line], "o", label=label if line else None)
        else:
            axes.plot([100 * each.sparsity for each in line], [each.ms for each in line], "o-", label=label)
    if front:
        axes.step([each.ms for each in front], [100 * each.accuracy for each in front], "k--", where="post", label="Pareto front")
        for each in front:
            axes.annotate(each.name, (each.ms, 100 * each.accuracy), fontsize=7, textcoords="offset points", xytext=(4, -9))
    else:
        axes.axhline(choices[0].ms, color="grey", linestyle=":", label="dense")
    axes.set_xlabel("latency, ms, estimated" if front else "sparsity, %")
    axes.set_ylabel("accuracy, %" if front else "latency, ms, estimated")
    axes.legend(fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()
