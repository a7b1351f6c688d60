"""Where a network's time goes: each call of 'main' in order, with the layer it computes.

The network's code has a second function, which asks for the time between its steps: some 20 ns a step. A profile says
both, the whole call without that and with it, measured in turn.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from tvm_sched.bench.latency import Candidate, fastest_cpus, measure, pinned
from tvm_sched.bench.rows import number
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.planning.explain import IN_PLACE


@dataclass(frozen=True)
class Step:
    """One call of a compiled function, or all that is none; of many runs, in microseconds."""

    layer: str  # its name; empty for what is no layer: pools, transposes
    kernel: str  # with its block size, or the function's name
    median_us: float
    min_us: float
    kept_macs: int
    share_of_peak: float | None  # at the median; None for what is no layer
    share: float  # of the median run


@dataclass(frozen=True)
class Profile:
    """Steps in the order of their calls, then what the virtual machine computes between them, if anything, then the
    rest: their medians' sum is `instrumented_us`.
    """

    steps: list[Step]
    instrumented_us: float  # median of a call, steps being timed
    plain_us: float  # median of a call without that


def profile(artifact: Artifact, x: np.ndarray, peak_gflops: float, threads: int, seconds: float = 2.0) -> Profile:
    """Times the artifact's steps on `x` for about so long. peak_gflops: the machine's, on as many threads."""
    times: list[np.ndarray] = []
    timed = artifact.timed(times.append)
    timed(x)  # makes its machine
    times.clear()
    with pinned(fastest_cpus(threads)):
        timings = measure({"plain": Candidate(lambda: artifact(x)), "timed": Candidate(lambda: timed(x))}, seconds)
    parts = artifact.manifest["parts"]
    times_us = np.diff(np.stack(times), axis=1).reshape(len(times) // parts, -1) / 1e3
    total_us = 1e3 * timings["timed"].median_ms
    steps = list(_steps(times_us, artifact, total_us, peak_gflops))
    rest = total_us - sum(step.median_us for step in steps)
    least = 1e3 * timings["timed"].min_ms - sum(step.min_us for step in steps)
    steps.append(Step("", "input, output and the call", rest, least, 0, None, rest / total_us))
    return Profile(steps, total_us, 1e3 * timings["plain"].median_ms)


def _steps(times_us: np.ndarray, artifact: Artifact, total_us: float, peak_gflops: float) -> Iterator[Step]:
    """The steps of calls whose times are `times_us` [calls, parts * intervals].

    Which call of its function a layer is, was counted when the calls were compiled, and stands in the manifest.
    """
    layer_of = {(layer.function, layer.call): layer for layer in artifact.explain() if layer.function}
    parts = artifact.manifest["parts"]
    between = np.zeros(len(times_us))
    pieces = 0
    for part in np.split(times_us, parts, axis=1):
        calls: Counter[str] = Counter()
        for name, times in zip(intervals(artifact.manifest["steps"]), part.T, strict=True):
            if name is None:
                between, pieces = between + times, pieces + 1
                continue
            layer = layer_of.get((name, calls[name]))
            calls[name] += 1
            median = float(np.median(times))
            kept = layer.kept_macs // parts if layer else 0
            share_of_peak = 2e-3 * kept / median / peak_gflops if layer else None
            told = (layer.name, layer.kernel) if layer else ("", name)
            yield Step(*told, median, float(times.min()), kept, share_of_peak, median / total_us)
    if pieces:
        median = float(np.median(between))
        yield Step("", "the virtual machine's steps", median, float(between.min()), 0, None, median / total_us)


def intervals(steps: Sequence[Sequence[str]]) -> list[str | None]:
    """What the time between two points went to: a function, or, between runs of calls, the virtual machine (None)."""
    names = [[name.removesuffix(IN_PLACE) for name in run] for run in steps]
    return [each for run in names for each in (*run, None)][:-1]


def table(profile: Profile) -> Table:
    """The steps as a table for a terminal, with their sums."""
    rows = Table(
        caption=f"a call takes {profile.plain_us:.0f} us; {profile.instrumented_us:.0f} us with its steps timed",
        show_footer=True,
    )
    kept = sum(step.kept_macs for step in profile.steps)
    sums = {"median us": f"{profile.instrumented_us:.1f}", "kept MMACs": f"{kept / 1e6:.2f}", "share": "100.0%"}
    for column in ("layer", "kernel", "median us", "min us", "kept MMACs", "of peak", "share"):
        rows.add_column(
            column, footer=sums.get(column, ""), justify="left" if column in ("layer", "kernel") else "right"
        )
    for step in profile.steps:
        macs = f"{step.kept_macs / 1e6:.2f}" if step.kept_macs else "-"
        times = (f"{step.median_us:.1f}", f"{step.min_us:.1f}")
        rows.add_row(
            step.layer or "-", step.kernel, *times, macs, number(step.share_of_peak, ".0%"), f"{step.share:.1%}"
        )
    return rows
