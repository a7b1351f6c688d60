#!/usr/bin/env python
"""What equal rows buy: a network pruned to the same density with as many blocks in every block row, and with the
largest blocks of the layer.

    python scripts/equal_work.py [NETWORK]

Both networks have the same random weights and, layer by layer, the same number of blocks. Two things are told:

- Simulated: a kernel that computes just the blocks of each row, its rows dealt out to threads in equal ranges. The
  threads wait for the one with the most blocks. Speed-up = blocks / blocks of the busiest thread, each layer weighted
  with its multiply-adds.
- Measured: this compiler on both. It wants equal rows, so the shorter rows of the second network are filled with zeros.
"""

import time
from statistics import median

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

THREADS = (1, 2, 4, 8, 16)


@click.command()
@click.argument("network", default="resnet50")
@click.option("--n", default=16, show_default=True, help="Block size.")
@click.option("--sparsity", default=0.75, show_default=True, help="Fraction of blocks that are zero.")
@click.option("--seconds", default=10.0, show_default=True, help="For the measurements of a thread count.")
def command(network: str, n: int, sparsity: float, seconds: float):
    """Compare equal block rows with unequal ones of the same density."""
    uniform, ragged = pruned(network, n, sparsity, per_row=True), pruned(network, n, sparsity, per_row=False)
    table = Table(title=f"{network}, 1x{n}, {sparsity:.0%} pruned: speed-up over one thread, simulated")
    for column in ("threads", "equal rows", "unequal rows"):
        table.add_column(column, justify="right")
    for threads in THREADS:
        table.add_row(str(threads), *(f"{speed_up(layers(module, n), threads):.2f}" for module in (uniform, ragged)))
    console = Console()
    console.print(table)
    for threads in (1, 2):
        equal, unequal = measured([uniform, ragged], threads, seconds)
        click.echo(
            f"measured, {threads} thread(s): equal rows {equal:.2f} ms, unequal rows {unequal:.2f} ms, "
            f"{unequal / equal:.2f} times as long"
        )


def pruned(network: str, n: int, sparsity: float, per_row: bool) -> torch.nn.Module:
    """The network with zeros in all convolutions but stem and depthwise: in each block row the blocks of least L1 norm,
    or in the layer.
    """
    from subp import models

    torch.manual_seed(0)
    module = models.create(network, 1000).eval()
    for weight in prunable(module, n):
        norms = blocks(weight, n).abs().sum((1, 3, 4))  # [rows, channels]
        rows = len(norms)
        kept = max(1, round(norms.shape[1] * (1 - sparsity)))
        threshold = norms.topk(kept, 1).values[:, -1:] if per_row else norms.flatten().topk(kept * rows).values[-1]
        weight.data *= (norms >= threshold).repeat_interleave(n, 0)[:, :, None, None]
    return module


def prunable(module: torch.nn.Module, n: int) -> list[torch.Tensor]:
    """Weights `[O, C, kh, kw]` of the convolutions that are pruned."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)][1:]
    return [layer.weight for layer in convolutions if layer.groups == 1 and layer.out_channels % n == 0]


def blocks(weight: torch.Tensor, n: int) -> torch.Tensor:
    """`[O, C, kh, kw]` as `[O / n, n, C, kh, kw]`."""
    return weight.detach().reshape(-1, n, *weight.shape[1:])


def layers(module: torch.nn.Module, n: int) -> list[tuple[np.ndarray, int]]:
    """(kept blocks of each block row, multiply-adds a block) of each pruned layer, at 224x224."""
    images = {}

    def note(layer, _inputs, output):
        images[layer.weight] = output.shape[-2] * output.shape[-1]

    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        module(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return [
        (
            blocks(weight, n).any(-1).any(-1).any(1).sum(1).numpy(),
            images[weight] * n * weight.shape[2] * weight.shape[3],
        )
        for weight in prunable(module, n)
    ]


def speed_up(layers: list[tuple[np.ndarray, int]], threads: int) -> float:
    """Of `threads` over one, where each gets the next rows, as many as the others as far as that goes."""
    busiest = sum(max(share.sum() for share in np.array_split(kept, threads)) * macs for kept, macs in layers)
    return sum(kept.sum() * macs for kept, macs in layers) / busiest


def measured(modules: list[torch.nn.Module], threads: int, seconds: float) -> list[float]:
    """Median milliseconds of a call of each, in turn."""
    import tvm_sched

    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    artifacts = [tvm_sched.compile(module, x, threads=threads) for module in modules]
    times, end = [[] for _ in modules], time.perf_counter() + seconds
    while not times[0] or time.perf_counter() < end:
        for artifact, mine in zip(artifacts, times, strict=True):
            artifact(x.numpy())
            for _ in range(10):
                before = time.perf_counter()
                artifact(x.numpy())
                mine.append(1e3 * (time.perf_counter() - before))
    return [median(each) for each in times]


if __name__ == "__main__":
    command()
