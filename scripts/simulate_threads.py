#!/usr/bin/env python
"""How a network would run on more threads than this machine has cores, with a uniform 1xN mask and with an uneven one.

    python scripts/simulate_threads.py [--network resnet50] [--sparsity 0.75] [--threads 2,4,8,16] [--spread 0.0]

The network is compiled for each number of threads; each part of each parallel loop is timed on one core, the least of
many runs (`tvm_sched/bench/thread_parts.py` says what a simulated call is). Both masks keep equally many blocks in a
layer: the uniform one equally many in each block row, the uneven one the largest of the layer (method 'one-by-n').
`--spread` is the standard deviation of the logarithms by which the weights' scale differs from block row to block row:
without it the counts differ by chance alone. The uneven mask runs

    padded   as it is compiled: shorter rows filled with zeros
    in order with rows of their true length, of which each thread takes a run
    dealt    the same, the longest rows first to whichever thread has least

The last two are the uniform network's parts, times what the busiest thread's blocks exceed the mean: they leave out
what a row of its own length would cost besides.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

MOST = 64  # threads that code may be made for
os.environ["TVM_NUM_THREADS"] = str(MOST)  # before TVM has a pool; one of them runs

import click  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import tvm_sched  # noqa: E402
from subp import models  # noqa: E402
from subp.cli.options.types import Numbers  # noqa: E402
from subp.deployment.unit_scale import to_unit_scale  # noqa: E402
from subp.pruning.block_masks import to_blocks  # noqa: E402
from subp.pruning.sparsifier import Sparsifier  # noqa: E402
from subp_contract.errors import UserError  # noqa: E402
from tvm_sched import targets  # noqa: E402
from tvm_sched.bench import thread_parts  # noqa: E402
from tvm_sched.bench.thread_parts import by_call, least  # noqa: E402
from tvm_sched.planning.sharing import SharedCall, busiest_rows  # noqa: E402

N, CLASSES, SIZE = 16, 1000, 224
GHZ = 4.0  # by which the target's cycles become a barrier's time


@click.command()
@click.option("--network", default="resnet50", show_default=True, help="Name of a network.")
@click.option("--sparsity", type=click.FloatRange(0, 1, max_open=True), default=0.75, show_default=True)
@click.option("--threads", type=Numbers(), default="2,4,8,16", show_default=True)
@click.option("--target", default="host", show_default=True)
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--spread", type=click.FloatRange(0), default=0.0, show_default=True, help="Of block rows' scales.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--barrier-us", type=click.FloatRange(0), help="Of two threads [the target's costs, at 4 GHz].")
def command(
    network: str,
    sparsity: float,
    threads: list[int],
    target: str,
    runs: int,
    spread: float,
    seed: int,
    barrier_us: float | None,
) -> None:
    """Simulate a network on many threads, uniform and uneven."""
    try:
        masks = {method: pruned(network, method, sparsity, spread, seed) for method in ("one-by-n-uniform", "one-by-n")}
        lengths = row_lengths(masks["one-by-n"])
        ratios = [max(rows) * len(rows) / sum(rows) for rows in lengths.values()]
        click.echo(f"{network}, {sparsity:.0%} of the blocks pruned; the uneven mask's longest row is ", nl=False)
        click.echo(f"{np.median(ratios):.2f} of the mean in the median layer, {max(ratios):.2f} at most\n")
        click.echo("| threads | uniform | padded | in order | dealt |\n|---|---|---|---|---|")
        alone: list[float] = []
        for count in sorted({1, *threads}):
            uniform, padded = (Measured.of(module, target, count, runs, barrier_us) for module in masks.values())
            totals = [uniform.total_us(), padded.total_us()]
            totals += [uniform.total_us(busiest_of(lengths, count, dealt)) for dealt in (False, True)]
            alone = alone or totals
            cells = [f"{us / 1e3:.3f} ms, {one / us:.2f}x" for us, one in zip(totals, alone, strict=True)]
            click.echo(f"| {count} | {' | '.join(cells)} |")
    except UserError as error:
        raise click.ClickException(str(error)) from None


def pruned(name: str, method: str, sparsity: float, spread: float, seed: int) -> nn.Module:
    """The network with random weights and a mask of that method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.create(name, CLASSES)
        options = {"n": N, "sparsity": sparsity, "criterion": "l1", "epochs": 1, "start": 0, "end": 0, "seed": seed}
        sparsifier = Sparsifier(module, method=method, **options)
        for layer in module.modules():
            if spread and isinstance(layer, nn.Conv2d) and layer.out_channels % N == 0:
                scales = torch.exp(spread * torch.randn(layer.out_channels // N)).repeat_interleave(N)
                layer.weight.data *= scales.reshape(-1, 1, 1, 1)
        sparsifier.step(0)
        sparsifier.fold()
        to_unit_scale(module, torch.randn(8, 3, SIZE, SIZE))
    return module


def row_lengths(module: nn.Module) -> dict[str, list[int]]:
    """By layer how many blocks each of its block rows keeps; of convolutions whose filters are whole blocks."""
    return {
        name: (to_blocks(layer.weight.detach(), N) != 0).any(-1).sum(1).tolist()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.out_channels % N == 0
    }


def busiest_of(lengths: dict[str, list[int]], threads: int, dealt: bool) -> dict[str, float]:
    """By layer what the busiest thread's blocks are of those of the uniform mask's busiest thread."""
    return {
        name: busiest_rows(rows, threads, dealt) / busiest_rows([1] * len(rows), threads)
        for name, rows in lengths.items()
    }


@dataclass(frozen=True)
class Measured:
    """A network's launches on so many threads: the longest part of each by layer, empty for what is none."""

    threads: int
    longest_us: list[tuple[str, float]]
    between_us: float
    barrier_us: float

    @classmethod
    def of(cls, module: nn.Module, target: str, threads: int, runs: int, barrier_us: float | None) -> "Measured":
        """Compiles it, by the analytic choice and records as they are shipped, and measures its parts."""
        x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        machine = replace(targets.get(target), cores=threads)
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "net.so")
            tvm_sched.compile(module, x, target=target, threads=threads, check=False).save(library)
            artifact = tvm_sched.load(library, threads=1)
            image = x.numpy()
            artifact(image)
            found = least(thread_parts.runs(library, lambda: artifact(image), threads, runs))
        calls = [SharedCall.from_json(each) for each in artifact.manifest["calls"]]
        names = {(layer.function, layer.call): layer.name for layer in artifact.explain()}
        seen: Counter[str] = Counter()
        longest = []
        for call, parts in by_call(calls, found.parts_us.max(1, initial=0).tolist()):
            name = names.get((call.function, seen[call.function]), "")
            seen[call.function] += 1
            longest += [(name, part) for part in parts]
        further = machine.barrier_cycles / machine.costs.barrier_cycles
        barrier = machine.barrier_cycles / GHZ / 1e3 if barrier_us is None else barrier_us * further
        return cls(threads, longest, found.between_us, barrier)

    def total_us(self, factors: Mapping[str, float] = MappingProxyType({})) -> float:
        """Of a call, a layer's longest parts times its factor where it has one."""
        parts = sum(part * factors.get(name, 1.0) for name, part in self.longest_us)
        return parts + self.between_us + self.barrier_us * len(self.longest_us)


if __name__ == "__main__":
    command()
