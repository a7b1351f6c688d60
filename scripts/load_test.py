#!/usr/bin/env python
"""Compiled networks under load, for as long as asked: right, fast enough, and no larger at the end.

    python scripts/load_test.py --minutes 10 --loads 500
    python scripts/load_test.py --minutes 1 --network net.so

All at once, in one process: eight Python threads call one artifact, two of them another one of a different number of
threads by turns; children are forked in their midst; workers of a DataLoader, forked, call it, too, and processes that
are started anew, which get it pickled. Then the network is loaded and dropped again and again. Every output is
compared bit by bit with the first call's.

Prints calls, median and 99th percentile of a call in the threads (it waits for the others), and by how much the
process's memory has grown since it was warm. Exits with 1 where an output is wrong, a process fails, or memory grows
by more than 1 % (--most-growth). Linux only.
"""

import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import tvm_sched
from tvm_sched import runtime
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.signature import check_inputs

THREADS, WORKERS = 8, 2
INPUTS = 4  # different ones
LOADS_WARM = 20
KEPT = 10_000  # calls of a thread whose times are kept, so that they do not grow


def network() -> nn.Module:
    """Two convolutions, three quarters of whose 1x16 blocks are zero."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    for layer in layers[::2]:
        layer.weight.data[:, ::4] *= 2
        layer.weight.data[:, 1::4] = layer.weight.data[:, 2::4] = layer.weight.data[:, 3::4] = 0
    return nn.Sequential(*layers).eval()


def inputs_of(artifact: Artifact, number: int) -> list[np.ndarray]:
    """Those of a seed."""
    return [np.asarray(each) for each in check_inputs(artifact.signature.inputs, number)]


def bits(artifact: Artifact, number: int) -> bytes:
    """The outputs for these inputs."""
    return b"".join(np.ascontiguousarray(each).tobytes() for each in artifact.run_flat(inputs_of(artifact, number)))


def all_right(artifact: Artifact, known: list[bytes]) -> bool:
    """Whether it gives what is known."""
    return all(bits(artifact, number) == each for number, each in enumerate(known))


class Called(Dataset):
    """What a worker's calls give."""

    def __init__(self, artifact: Artifact, known: list[bytes]):
        self.artifact, self.known = artifact, known

    def __len__(self) -> int:
        return 2 * WORKERS

    def __getitem__(self, _place: int) -> bool:
        return all_right(self.artifact, self.known)


class Report:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of calls
        self.wrong: list[str] = []
        self.calls = self.forks = self.started = self.batches = 0

    def expect(self, right: bool, what: str) -> None:
        """Notes what went wrong."""
        if not right:
            self.wrong.append(what)


def resident() -> int:
    """Bytes of memory that the process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def caller(mine: list[Artifact], known: list[bytes], end: float, report: Report) -> None:
    """Calls artifacts by turns."""
    number, times = 0, deque(maxlen=KEPT)
    while time.monotonic() < end:
        artifact = mine[number % len(mine)]
        given = inputs_of(artifact, number % INPUTS)
        start = time.perf_counter()
        made = artifact.run_flat(given)
        times.append(time.perf_counter() - start)
        report.expect(b"".join(each.tobytes() for each in made) == known[number % INPUTS], "a thread's call")
        number += 1
    report.seconds += times
    report.calls += number


def forked(artifact: Artifact, known: list[bytes]) -> bool:
    """Whether a child gives the same."""
    child = os.fork()
    if child == 0:
        os._exit(0 if all_right(artifact, known) else 1)
    return os.waitpid(child, 0)[1] == 0


def under_load(artifacts: list[Artifact], known: list[bytes], seconds: float, report: Report) -> float:
    """Threads, forks and workers at once; the growth of memory after the first quarter."""
    end, before = time.monotonic() + seconds, 0
    one, other = artifacts
    with ThreadPoolExecutor(THREADS) as threads:
        calls = [
            threads.submit(caller, [one, other] if place < 2 else [one], known, end, report) for place in range(THREADS)
        ]
        while time.monotonic() < end:
            report.expect(forked(one, known), "a forked child")
            report.forks += 1
            report.expect(all(DataLoader(Called(one, known), batch_size=None, num_workers=WORKERS)), "a worker")
            report.batches += 1
            if not before and time.monotonic() > end - 0.75 * seconds:
                before = resident()
        after = resident()
        for call in calls:
            call.result()
    return after / (before or after) - 1


def in_processes(artifact: Artifact, count: int, known: list[bytes], report: Report) -> None:
    """So many processes that are started anew, each with the artifact pickled."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        right = pool.starmap(all_right, [(artifact, known)] * count)
    report.expect(all(right), "a started process")
    report.started += len(right)


def loads(path: Path, count: int, known: list[bytes], report: Report) -> float:
    """Loads and drops it again and again; the growth of memory after the first."""
    before = 0
    for number in range(LOADS_WARM + count):
        if number == LOADS_WARM:
            before = resident()
        report.expect(bits(tvm_sched.load(path, threads=1), number % INPUTS) == known[number % INPUTS], "a load")
    return resident() / before - 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Of load.")
@click.option("--loads", "count", default=500, show_default=True, type=click.IntRange(1), help="And drops.")
@click.option("--processes", default=8, show_default=True, type=click.IntRange(1), help="That are started anew.")
@click.option("--most-growth", default=0.01, show_default=True, help="Of memory, by either; a fraction.")
@click.option(
    "--network", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="NAME.so [a small one]"
)
def command(minutes: float, count: int, processes: int, most_growth: float, path: Path | None) -> None:
    """Compiled networks under load: right, and no larger at the end."""
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder, "net.so")
            tvm_sched.compile(network(), torch.zeros(1, 16, 32, 32), threads=runtime.most_threads()).save(path)
        artifacts = [tvm_sched.load(path), tvm_sched.load(path, threads=1)]
        known, report = [bits(artifacts[0], number) for number in range(INPUTS)], Report()
        grown = under_load(artifacts, known, 60 * minutes, report)
        in_processes(artifacts[0], processes, known, report)
        grown_by_loads = loads(path, count, known, report)
    median, late = np.quantile(report.seconds, [0.5, 0.99]) * 1e3
    print(f"{report.calls} calls in {THREADS} threads: median {median:.2f} ms, 99th percentile {late:.2f} ms")
    print(
        f"{report.forks} forks, {report.batches} DataLoaders of {WORKERS} workers, {report.started} started processes"
    )
    print(f"memory {grown:+.2%} under load, {grown_by_loads:+.2%} by {count} loads")
    failures = [*report.wrong, *(["memory has grown"] if max(grown, grown_by_loads) > most_growth else [])]
    if failures:
        sys.exit(f"{len(failures)} failures: {', '.join(sorted(set(failures)))}")


if __name__ == "__main__":
    command()
