"""Runs the probes: how often, in which order, and what is made of their times.

A machine's clock and neighbours change while it is measured. So each round times the loop of multiply-adds that tells a
cycle and every workload of a trial, one after the other, and cycles are ratios inside a round. The rounds are dealt out
to GROUPS; each group's medians give a figure, and how far these lie apart says whether to believe the middle one.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm

from tvm_sched import codegen, runtime
from tvm_sched.bench.calibration import workloads
from tvm_sched.bench.calibration.probes import NOT_MEASURED, PROBES
from tvm_sched.bench.calibration.trials import Probe, Trial
from tvm_sched.bench.calibration.workloads import Workload
from tvm_sched.quiet import quiet
from tvm_sched.targets import Target, cpu_name
from tvm_sched.targets.costs import FIGURES, RANGES
from tvm_sched.tuning.search import measurable_here

BURST_S = 4e-4  # of one workload: long against the clock's resolution, short against the scheduler's time slices
GROUPS = 5
WIDEST = 0.5  # spread of a figure that is still believed
TINY = 1e-9  # figures below are none
DIGITS = 3  # of a figure that are kept


@dataclass(frozen=True)
class Finding:
    """What became of one figure."""

    figure: str  # field of `Costs`
    unit: str
    before: float  # the target's
    measured: float | None = None  # None where there was nothing to measure
    spread: float | None = None  # how far apart parts of the time see it, as a share of the larger of both figures
    kept: str = ""  # why the target's figure stays; empty where the measured one takes its place

    @property
    def after(self) -> float:
        """The figure to go on with."""
        return self.before if self.kept else self.measured


def calibrated(
    target: Target, seconds: float, progress: Callable[[int, int, str], None] = lambda done, total, figure: None
) -> tuple[Target, list[Finding]]:
    """The target with figures measured on this machine, and what was found for each, in the order of `Costs`.

    `seconds`: of measuring, for each figure that can be; building takes as long again. `progress` is called with
    (figures done, in all, the next one). Raises UserError if this machine cannot run the target's code.
    """
    one_core = measurable_here(target, threads=1)
    findings = {figure: unmeasured(target, figure, why) for figure, why in NOT_MEASURED.items()}
    for done, probe in enumerate(PROBES):
        progress(done, len(PROBES), probe.figure)
        findings[probe.figure] = finding = find(probe, one_core, seconds)
        one_core = replace(one_core, costs=replace(one_core.costs, **{probe.figure: finding.after}))
    costs = replace(one_core.costs, measured_on=cpu_name())
    return replace(target, costs=costs), [findings[figure] for figure in FIGURES]


def unmeasured(target: Target, figure: str, why: str) -> Finding:
    """The target's figure stays."""
    before = getattr(target.costs, figure)
    return Finding(figure, FIGURES[figure].metadata["unit"], before, kept=f"not measured: {why}")


def find(probe: Probe, target: Target, seconds: float) -> Finding:
    """What a probe finds on this machine."""
    trial = probe.trial(target)
    if isinstance(trial, str):
        return unmeasured(target, probe.figure, trial)
    quarter, middle, three_quarters = np.percentile(figures_of(trial, target, seconds), (25, 50, 75))
    finding = unmeasured(target, probe.figure, "")
    measured = float(f"{middle:.{DIGITS}g}")
    spread = float((three_quarters - quarter) / max(abs(middle), finding.before, TINY))
    return replace(finding, measured=measured, spread=spread, kept=doubts(measured, spread, finding.unit))


def doubts(measured: float, spread: float, unit: str) -> str:
    """Why a measured figure is not to be believed; empty where it is."""
    least, most = RANGES[unit]
    if not least <= measured <= most:
        return f"measured {measured:g}, which makes no sense"
    return f"measured figures lie {spread:.0%} apart" if spread > WIDEST else ""


def figures_of(trial: Trial, target: Target, seconds: float) -> list[float]:
    """The figure by each of GROUPS parts of the time."""
    cycles = cycles_of([*trial.workloads], target, seconds)
    return [trial.solve(*np.median(group, axis=0)) for group in np.array_split(cycles, GROUPS)]


def cycles_of(works: Sequence[Workload], target: Target, seconds: float) -> np.ndarray:
    """[rounds, workloads]: cycles of a call, in rounds for about so many seconds, GROUPS rounds at least."""
    timers = [timer(work, target) for work in (workloads.multiply_adds(target), *works)]
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < GROUPS or time.perf_counter() < end:
        rounds.append([timed() for timed in timers])
    reference, *others = np.array(rounds).T
    return (np.array(others) / reference * workloads.peak_cycles(target)).T


def timer(work: Workload, target: Target) -> Callable[[], float]:
    """Seconds of a call, the mean of a burst, on this machine."""
    with quiet():
        module = codegen.build(work.mod, target).mod
    device = tvm.cpu()
    arguments = [tvm.runtime.tensor(each) if isinstance(each, np.ndarray) else each for each in work.arguments]

    def seconds(calls: int) -> float:
        runtime.set_threads(work.threads)
        return module.time_evaluator("main", device, number=calls, repeat=1)(*arguments).mean

    calls = max(1, round(BURST_S / seconds(3)))
    return lambda: seconds(calls)
