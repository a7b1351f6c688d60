"""Where a network's time goes: each call of 'main' in order, with the layer it computes.

The virtual machine calls back before and after each step. That takes a few microseconds a step, so the steps' sum
exceeds the time of a plain call; a profile says both, measured in turn.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from tvm_sched.bench.latency import Candidate, fastest_cpus, measure, pinned
from tvm_sched.bench.rows import number
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.planning.explain import IN_PLACE

BUILTIN = "vm.builtin."  # how the names of the machine's own steps begin


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
    """Steps in the order of their calls, then the machine's own steps together, then the rest: their medians' sum is
    `instrumented_us`.
    """

    steps: list[Step]
    instrumented_us: float  # median of a call, steps being timed
    plain_us: float  # median of a call without that


class Clock:
    """The callback that times steps."""

    def __init__(self):
        self.names, self.starts, self.ends = [], [], []

    def __call__(self, function, name, before, result, *arguments) -> int:
        now = time.perf_counter_ns()
        if before:
            self.names.append(name)
            self.starts.append(time.perf_counter_ns())
        else:
            self.ends.append(now)
        return 0


def profile(artifact: Artifact, x: np.ndarray, peak_gflops: float, threads: int, seconds: float = 2.0) -> Profile:
    """Times the artifact's steps on `x` for about so long. peak_gflops: the machine's, on as many threads."""
    clock = Clock()
    instrumented = artifact.instrumented(clock)
    instrumented(x)  # makes its machine
    vars(clock).update(vars(Clock()))
    instrumented(x)
    names = list(clock.names)  # of one run; all are the same
    with pinned(fastest_cpus(threads)):
        timings = measure(
            {"plain": Candidate(lambda: artifact(x)), "instrumented": Candidate(lambda: instrumented(x))}, seconds
        )
    times_us = (np.array(clock.ends) - np.array(clock.starts)).reshape(-1, len(names)) / 1e3
    total_us = 1e3 * timings["instrumented"].median_ms
    steps = list(_steps(names, times_us, artifact, total_us, peak_gflops))
    rest = total_us - sum(step.median_us for step in steps)
    least = 1e3 * timings["instrumented"].min_ms - sum(step.min_us for step in steps)
    steps.append(Step("", "input, output and timing", rest, least, 0, None, rest / total_us))
    return Profile(steps, total_us, 1e3 * timings["plain"].median_ms)


def _steps(names: Sequence[str], times_us: np.ndarray, artifact: Artifact, total_us: float, peak_gflops: float):
    """The steps of runs whose times are `times_us` [runs, names].

    The machine tells functions by name only; which call of its function a layer is, was counted when the calls were
    compiled, and stands in the manifest.
    """
    layer_of = {(layer.function, layer.call): layer for layer in artifact.explain() if layer.function}
    names, parts = [name.removesuffix(IN_PLACE) for name in names], artifact.manifest["parts"]
    calls = Counter()
    builtin = np.zeros(len(times_us))
    for name, times in zip(names, times_us.T, strict=True):
        if name.startswith(BUILTIN):
            builtin = builtin + times
            continue
        layer = layer_of.get((name, calls[name] % (names.count(name) // parts)))
        calls[name] += 1
        median = float(np.median(times))
        kept = layer.kept_macs // parts if layer else 0
        share_of_peak = 2e-3 * kept / median / peak_gflops if layer else None
        told = (layer.name, layer.kernel) if layer else ("", name)
        yield Step(*told, median, float(times.min()), kept, share_of_peak, median / total_us)
    own = sum(name.startswith(BUILTIN) for name in names)
    median = float(np.median(builtin))
    yield Step("", f"the machine's own steps ({own})", median, float(builtin.min()), 0, None, median / total_us)


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
        kept = f"{step.kept_macs / 1e6:.2f}" if step.kept_macs else "-"
        times = (f"{step.median_us:.1f}", f"{step.min_us:.1f}")
        rows.add_row(
            step.layer or "-", step.kernel, *times, kept, number(step.share_of_peak, ".0%"), f"{step.share:.1%}"
        )
    return rows
