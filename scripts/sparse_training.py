#!/usr/bin/env python
"""What training steps gain by leaving the pruned blocks out (`sparse_compute="kernels"`), against PyTorch's own steps
of the same masked networks, in turn.

    python scripts/sparse_training.py layers   -o results/sparse_training.csv
    python scripts/sparse_training.py networks -o results/sparse_training_networks.csv
    python scripts/sparse_training.py memory   -o results/sparse_training_memory.csv
    python scripts/sparse_training.py profile  -o results/sparse_training_profile.csv
    python scripts/sparse_training.py start

`layers`: the three products of layers of ResNet-18, ResNet-50 and MobileNetV1, hard masks: least milliseconds with the
zeros left out, PyTorch's, and the share of the machine's peak that the kept multiply-adds reach. `networks`: whole
steps (forward, loss, backward, SGD with momentum): least milliseconds of both. Quiet cores are needed, one a thread:
where another process takes one of two, a step on both takes several times as long. `memory`: of such steps in processes
of their own, whose freed memory goes back to the system at once, the largest resident set, MiB; no quiet cores needed.
`profile`: what of such a step, hard masks, kernels take, and what the rest. `start`: how long the first step takes on a
machine that has built no kernels yet.
"""

import csv
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import click

from subp_contract.files import write_atomically

LAYERS = [  # channels in and out, kernel, stride, pixels a side of the input, groups
    (64, 64, 3, 1, 56, 1),
    (128, 128, 3, 1, 28, 1),
    (256, 256, 3, 1, 14, 1),
    (512, 512, 3, 1, 7, 1),
    (128, 256, 3, 2, 28, 1),
    (64, 256, 1, 1, 56, 1),
    (256, 64, 1, 1, 56, 1),
    (512, 128, 1, 1, 28, 1),
    (256, 1024, 1, 1, 14, 1),
    (2048, 512, 1, 1, 7, 1),
    (256, 512, 1, 2, 56, 1),
    (128, 128, 3, 1, 56, 128),
    (512, 512, 3, 1, 14, 512),
]
LINEAR = [(196, 384, 1536), (196, 1536, 384)]  # rows of an image, inputs and outputs: of ConvNeXt-T
NETWORKS = ("resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2")
CLASSES = 1000
PARTS = {  # of a step: what is in the names of what PyTorch calls for it
    "convolutions by kernels": ("block_",),
    "batch norms by kernels": ("batch_norm",),
    "dense layers": ("convolution", "addmm", "aten::mm"),
    "max pooling": ("max_pool2d", "maxpool2d"),
    "activations": ("relu", "clamp_min", "threshold", "hardtanh"),
    "optimizer": ("optimizer.step",),
}
REST = "the rest"


@click.group(help=__doc__.split("\n\n")[0])
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(threads: int) -> None:
    # Before PyTorch and TVM read it.
    os.environ["OMP_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = str(threads)
    from subp.common.freed_memory import keep_freed_memory

    keep_freed_memory()


def output(command):
    return click.option(
        "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file."
    )(command)


def batch(command):
    return click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Images in a step.")(
        command
    )


def steps_of_networks(command):
    """Options of what is told of steps of several networks, at one sparsity."""
    for option in (
        click.option("--n", default=16, show_default=True),
        click.option("--pixels", type=click.IntRange(1), default=224, show_default=True, help="A side of the images."),
        click.option("--sparsity", default=0.75, show_default=True),
        click.option("--network", "names", multiple=True, default=NETWORKS, show_default=True),
        batch,
        output,
    ):
        command = option(command)
    return command


@main.command()
@output
@batch
@click.option("--n", default=16, show_default=True)
@click.option("--sparsity", default=0.75, show_default=True)
def layers(output: Path, batch: int, n: int, sparsity: float) -> None:
    """The three products of single layers."""
    import torch

    from subp.sparse_products import choice

    threads = torch.get_num_threads()
    most = peak(threads)
    rows = []
    for name, pixels, problem in problems(batch, n):
        kept = max(1, round(problem.inputs * (1 - sparsity)))
        row = {"layer": name, "stride": problem.stride[0], "pixels": pixels, "n": problem.n}
        row |= {"kept": kept, "threads": threads}
        for kind, (ours, dense) in choice.seconds(problem, kept).items():
            share = problem.macs * kept / problem.inputs / ours / most
            row |= {
                f"{kind}_ms": f"{ours * 1e3:.2f}",
                f"{kind}_dense_ms": f"{dense * 1e3:.2f}",
                f"{kind}_peak": f"{share:.2f}",
            }
        rows.append(row)
        click.echo(", ".join(f"{name} {value}" for name, value in row.items()))
    write(output, rows)


def problems(batch: int, n: int) -> Iterator[tuple]:
    """(name, pixels a side or rows of an image, problem) of LAYERS and LINEAR."""
    import torch

    from subp.sparse_products import linear
    from tvm_sched.products.problem import Problem

    for inputs, outputs, kernel, stride, pixels, groups in LAYERS:
        sizes = (pixels, pixels), (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2)
        name = f"{inputs}->{outputs} {kernel}x{kernel}{f' in {groups} groups' if groups > 1 else ''}"
        yield name, pixels, Problem(batch, inputs, outputs, *sizes, groups=groups, n=n if groups == 1 else 1)
    for rows, inputs, outputs in LINEAR:
        index = torch.zeros(outputs // n, 0)
        problem = linear.problem_of(batch * rows, inputs, outputs, index, torch.float32)
        yield f"{inputs}->{outputs} linear", rows, problem


def peak(threads: int) -> float:
    """Multiply-adds of float32 a second at most: a loop of nothing else, the best of a few calls."""
    from tvm_sched import runtime
    from tvm_sched.bench import peak

    loop, least = peak.of(threads), float("inf")
    runtime.set_threads(threads)
    for _ in range(10):
        started = time.perf_counter()
        loop()
        least = min(least, time.perf_counter() - started)
    return loop.sums.size * loop.iterations / least


@main.command()
@output
@batch
@click.option("--network", "names", multiple=True, default=NETWORKS, show_default=True)
@click.option("--sparsity", "sparsities", multiple=True, type=float, default=(0.75, 0.9), show_default=True)
@click.option("--pixels", type=click.IntRange(1), default=224, show_default=True, help="A side of the images.")
@click.option("--n", default=16, show_default=True)
@click.option("--rounds", default=6, show_default=True, help="Steps of each, in turn, of which the least counts.")
def networks(
    output: Path, batch: int, names: tuple[str, ...], sparsities: tuple[float, ...], pixels: int, n: int, rounds: int
) -> None:
    """Whole steps of networks."""
    import torch

    rows = []
    for name in names:
        for sparsity in sparsities:
            for soft in (False, True):
                dense, ours = step_seconds(name, n, sparsity, soft, (batch, 3, pixels, pixels), rounds)
                rows.append(
                    {
                        "network": name,
                        "n": n,
                        "sparsity": sparsity,
                        "masks": "soft" if soft else "hard",
                        "batch": batch,
                        "pixels": pixels,
                        "threads": torch.get_num_threads(),
                        "dense_ms": f"{dense * 1e3:.0f}",
                        "kernels_ms": f"{ours * 1e3:.0f}",
                        "speed_up": f"{dense / ours:.2f}",
                    }
                )
                click.echo(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    write(output, rows)


def step_seconds(
    name: str, n: int, sparsity: float, soft: bool, shape: tuple[int, ...], rounds: int
) -> tuple[float, float]:
    """Least seconds of a step on images of that shape, by PyTorch's products and by kernels."""
    from subp.pruning import sparse_compute

    model, _, step = training(name, n, sparsity, soft, shape)
    least = [float("inf")] * 2
    for counts in (False, *[True] * rounds):
        for kernels in (False, True):
            if kernels:
                sparse_compute.attach(model)
            started = time.perf_counter()
            step()
            if counts:
                least[kernels] = min(least[kernels], time.perf_counter() - started)
            sparse_compute.detach(model)
    return least[0], least[1]


def training(name: str, n: int, sparsity: float, soft: bool, shape: tuple[int, ...]) -> tuple:
    """(a masked network, images of that shape, a function that makes a step of its training on them)."""
    import torch
    from torch.nn.functional import cross_entropy

    from subp import models
    from subp.pruning.sparsifier import Sparsifier
    from subp.training.loop import parameter_groups

    torch.manual_seed(0)
    model = models.create(name, CLASSES)
    sparsifier = Sparsifier(model, n=n, sparsity=sparsity, epochs=2, start=0, end=1, soft=soft)
    optimizer = torch.optim.SGD(parameter_groups(model, 1e-4), lr=0.01, momentum=0.9)
    sparsifier.decay_in(optimizer)
    sparsifier.step(1)
    images, labels = torch.randn(shape), torch.zeros(shape[0], dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return model, images, step


@main.command()
@steps_of_networks
def memory(output: Path, batch: int, names: tuple[str, ...], sparsity: float, pixels: int, n: int) -> None:
    """What whole steps of networks hold."""
    # Freed memory goes back to the system at once; else what a process holds depends on where tensors happen to lie.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
    rows = []
    for name in names:
        for soft in (False, True):
            row = {"network": name, "n": n, "sparsity": sparsity, "masks": "soft" if soft else "hard"}
            row |= {"batch": batch, "pixels": pixels}
            for kernels in (False, True):
                given = json.dumps([name, n, sparsity, soft, [batch, 3, pixels, pixels]])
                command = [sys.executable, __file__, "memory-of", given, *(["--kernels"] if kernels else [])]
                told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
                way = "kernels" if kernels else "dense"
                row[f"{way}_mib"] = told.strip()
            rows.append(row)
            click.echo(", ".join(f"{key} {value}" for key, value in row.items()))
    write(output, rows)


@main.command(hidden=True)
@click.argument("given")
@click.option("--kernels", is_flag=True)
def memory_of(given: str, kernels: bool) -> None:
    """The most that this process holds in a few steps, MiB."""
    from subp.pruning import sparse_compute

    name, n, sparsity, soft, shape = json.loads(given)
    model, _, step = training(name, n, sparsity, soft, shape)
    if kernels:
        sparse_compute.attach(model)
    for _ in range(4):
        step()
    click.echo(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@main.command()
@steps_of_networks
def profile(output: Path, batch: int, names: tuple[str, ...], sparsity: float, pixels: int, n: int) -> None:
    """What of a step takes which share of its time."""
    from subp.pruning import sparse_compute

    rows = []
    for name in names:
        model, _, step = training(name, n, sparsity, False, (batch, 3, pixels, pixels))
        sparse_compute.attach(model)
        step()
        taken = parts_of(step)
        for part, seconds in taken.items():
            row = {"network": name, "n": n, "sparsity": sparsity, "batch": batch, "pixels": pixels, "part": part}
            rows.append(row | {"share": f"{seconds / sum(taken.values()):.3f}"})
            click.echo(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    write(output, rows)


def parts_of(step: Callable[[], None], steps: int = 3) -> dict[str, float]:
    """Seconds of PARTS, and of REST, in a step, by PyTorch's profiler; on average."""
    from torch import profiler

    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            step()
    seconds = dict.fromkeys([*PARTS, REST], 0.0)
    for event in seen.events():
        called = [event]  # and what has called it
        while called[-1].cpu_parent:
            called.append(called[-1].cpu_parent)
        found = (
            part for each in called for part, names in PARTS.items() if any(name in each.name.lower() for name in names)
        )
        seconds[next(found, REST)] += event.self_cpu_time_total / 1e6 / steps
    return seconds


@main.command()
@batch
@click.option("--network", "name", default=NETWORKS[0], show_default=True)
@click.option("--pixels", type=click.IntRange(1), default=224, show_default=True, help="A side of the images.")
@click.option("--n", default=16, show_default=True)
@click.option("--beforehand/--as-they-come", default=True, show_default=True, help="When kernels are built.")
def start(batch: int, name: str, pixels: int, n: int, beforehand: bool) -> None:
    """How long a machine takes that has built nothing yet: seconds until the first step, for it, and for another."""
    from subp.pruning import sparse_compute

    with tempfile.TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty
        model, images, step = training(name, n, 0.75, False, (batch, 3, pixels, pixels))
        sparse_compute.attach(model)
        times = [time.perf_counter()]
        for work in ((lambda: sparse_compute.prepare(model, images)) if beforehand else None, step, step):
            if work:
                work()
            times.append(time.perf_counter())
        count = len([*Path(empty).rglob("*.so")])
    built, first, second = (end - begun for begun, end in pairwise(times))
    click.echo(f"{count} kernels: {built:.1f} s beforehand, first step {first:.1f} s, second step {second:.1f} s")


def write(path: Path, rows: list[dict]) -> None:
    """A CSV file with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


if __name__ == "__main__":
    main()
