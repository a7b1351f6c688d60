#!/usr/bin/env python
"""What part of the dense network's time a network takes whose sparsities and block sizes were planned for one: asked
and got.

    python scripts/target_latency.py resnet18 --target-latency 0.35 --target x86-avx2

Random weights and masks; both networks are compiled for one thread and called in turn: medians of the calls, and the
least, which say more on a machine that others disturb.
"""

import statistics
import time
from collections import Counter

import click


@click.command()
@click.argument("model")
@click.option("--target-latency", default=0.35, show_default=True)
@click.option("--target", default="host", show_default=True)
@click.option("--n", default=16, show_default=True)
@click.option("--vary-n", is_flag=True, help="Layers choose N too.")
@click.option("--size", type=int, default=224, show_default=True, help="Of the image.")
@click.option("--calls", default=60, show_default=True)
@click.option(
    "--save", type=click.Path(file_okay=False), help="Folder for the two compiled networks, to measure again."
)
def command(model, target_latency, target, n, vary_n, size, calls, save):
    """Plan, compile and measure MODEL."""
    from pathlib import Path

    import torch

    import tvm_sched
    from subp import Sparsifier, models

    folder = Path(save or ".")
    paths = [folder / f"{model}-{name}.so" for name in ("dense", f"{target_latency}")]
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    if not (save and all(path.exists() for path in paths)):
        torch.manual_seed(0)
        network = models.create(model, 1000).eval()
        dense = tvm_sched.compile(network, x, target=target, dense=True)
        sparsifier = Sparsifier(
            network,
            n=n,
            vary_n=vary_n,
            target_latency=target_latency,
            target=target,
            method="random",
            epochs=1,
            input_shape=tuple(x.shape[1:]),
        )
        sparsifier.step(0)
        chosen = Counter((sparsifier.block_sizes[name], p) for name, p in sparsifier.sparsities.items())
        layers = ", ".join(f"{count} of 1x{size} {p:.1%}" for (size, p), count in sorted(chosen.items()))
        click.echo(f"{model}: density {sparsifier.density:.1%}; {layers}")
        built = [dense, tvm_sched.compile(sparsifier.fold().eval(), x, target=target)]
        if save:
            folder.mkdir(parents=True, exist_ok=True)
            for artifact, path in zip(built, paths, strict=True):
                artifact.save(path)
            return
    else:
        built = [tvm_sched.load(path) for path in paths]
    times: list[list[float]] = [[], []]
    for turn in range(calls + 5):
        for artifact, of_artifact in zip(built, times, strict=True):
            started = time.perf_counter()
            artifact(x)
            if turn >= 5:
                of_artifact.append(time.perf_counter() - started)
    for word, of in (("medians", statistics.median), ("least", min)):
        dense_ms, ms = (1e3 * of(each) for each in times)
        click.echo(f"{model}: asked {target_latency}, got {ms / dense_ms:.3f} ({word}: {ms:.2f} of {dense_ms:.2f} ms)")


if __name__ == "__main__":
    command()
