"""How well the estimates rank tiles: each kernel of some networks with tiles of many ranks, measured in turn.

Kendall's tau tells how far two orders agree: 1 where they are the same, 0 where they have nothing to do with one
another. What it costs to go by the estimate is told by the time of its first choice over the least that was measured.

Before each call the second cache is filled with something else and the input is read, so that a kernel finds its input
near and its weights far, as in a network.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import tvm
from scipy.stats import kendalltau
from tvm.s_tir import Schedule
from tvm_ffi import structural_hash

from tvm_sched import codegen, pipeline, runtime
from tvm_sched.bench.calibration import workloads
from tvm_sched.bench.calibration.measuring import timer
from tvm_sched.bench.engines import Network
from tvm_sched.estimation.estimate import total_cycles
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of, seen_by
from tvm_sched.pipeline import Compilation
from tvm_sched.quiet import quiet
from tvm_sched.records.database import workload
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import FLOAT
from tvm_sched.tuning.measuring import arguments
from tvm_sched.tuning.tiles import Task, tasks_of

MANY = 10_000  # tiles of a kernel that are asked for: all
LEAST = 3  # tiles that have an order worth comparing
ROUNDS = 12  # of measurements, of which the least counts


@dataclass(frozen=True)
class Ranking:
    """Of one kernel; `tau` is None where there is no order to compare, see `tau_of`."""

    name: str
    kernel: str
    calls: int  # in its network
    tiles: int  # that were measured
    tau: float | None
    regret: float  # time of the estimate's first tile over the least measured
    bias: float  # estimated over measured cycles of that tile
    microseconds: float  # that it took


@dataclass(frozen=True)
class Agreement:
    """Of many rankings."""

    tau: float  # their median
    share: float  # of those whose tau is at least `GOOD`
    regret: float  # time of all calls with the estimates' first tiles, over that with the best measured


GOOD = 0.6


def tasks_of_all(networks: Iterable[Network], target: Target) -> list[Task]:
    """The kernels of all networks, each once: what tuning would measure."""
    found: dict[int, Task] = {}
    for network in networks:
        compilation = Compilation(target)
        imported = torch_export.in_parts(network.module, network.example_input, None, target.l2_bytes)
        for task in tasks_of(pipeline.fused(imported, compilation)):
            found.setdefault(structural_hash(workload(task.func)), task)
    return list(found.values())


def rank(
    tasks: Sequence[Task], target: Target, tiles: int, progress: Callable[[int, int, str], None] = lambda *_: None
) -> list[Ranking]:
    """The ranking of each task's kernel, by `tiles` of its tiles whose ranks lie equally far apart, the first among
    them. `target` is one core of this machine.
    """
    runtime.set_threads(1)
    rankings = []
    for done, task in enumerate(tasks):
        progress(done, len(tasks), task.name)
        rankings.append(ranking(task, target, tiles))
    return rankings


def ranking(task: Task, target: Target, tiles: int) -> Ranking:
    """That of one task."""
    kernel, mod, target = kernel_of(task.func), workload(task.func), seen_by(task.func, target)
    assert kernel is not None  # only functions that hold one are tasks
    problem = kernel.problem(Schedule(mod))
    ordered = kernel.tiles(problem, target, MANY)
    chosen = [ordered[rank] for rank in sorted(set(np.linspace(0, len(ordered) - 1, tiles).round().astype(int)))]
    functions = []
    for tile in chosen:
        sch = Schedule(mod)
        kernel.schedule(sch, tile, target)
        with quiet():
            functions.append(codegen.build_alone(sch.mod, target).mod)
    seconds, cycle = least_seconds(functions, arguments(task.func), target)
    estimated = [total_cycles(kernel, problem, tile, target) for tile in chosen]
    return Ranking(
        name=task.name,
        kernel=kernel.name,
        calls=task.calls,
        tiles=len(chosen),
        tau=tau_of(estimated, seconds),
        regret=seconds[0] / min(seconds),
        bias=estimated[0] * cycle / seconds[0],
        microseconds=1e6 * seconds[0],
    )


def tau_of(estimated: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Kendall's tau; None of fewer than LEAST tiles, or of estimates that are all the same, which have no order."""
    if len(estimated) < LEAST or len(set(estimated)) == 1:
        return None
    return float(kendalltau(estimated, seconds).statistic)


def least_seconds(functions: Iterable, arrays: Sequence[np.ndarray], target: Target) -> tuple[list[float], float]:
    """(least seconds of a call of each built function on the same arguments, seconds of a cycle), all measured in
    turn.
    """
    given, device = [tvm.runtime.tensor(array) for array in arrays], tvm.cpu()
    calls = [module.time_evaluator("main", device, number=1, repeat=1) for module in functions]
    reference = timer(workloads.multiply_adds(target), target)
    other = np.ones(2 * target.l2_bytes // FLOAT, "float32")
    near = np.from_dlpack(given[0])
    times, cycles = [], []
    for _ in range(ROUNDS):
        cycles.append(reference() / workloads.peak_cycles(target))
        row = []
        for call in calls:
            other.sum()
            near.sum()
            row.append(call(*given).mean)
        times.append(row)
    return list(np.min(times, axis=0)), min(cycles)


def agreement(rankings: Sequence[Ranking]) -> Agreement:
    """What the rankings say together. Raises ValueError where none has a tau."""
    taus = [each.tau for each in rankings if each.tau is not None]
    if not taus:
        raise ValueError("no kernel has tiles to rank")
    first = sum(each.calls * each.microseconds for each in rankings)
    best = sum(each.calls * each.microseconds / each.regret for each in rankings)
    return Agreement(median(taus), sum(tau >= GOOD for tau in taus) / len(taus), first / best)
