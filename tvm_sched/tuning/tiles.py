"""The tiles of one kernel: measured one batch after another, the most promising by MetaSchedule's cost model next.

The spaces are small (the schedule's form is known, see kernels/), so the search is not evolutionary: the analytic
default and the estimate's next best are measured first, then what the cost model finds most promising. The default and
the fastest are looked at again in turn before the difference is believed (`records.recorded.settled`). Each measurement
is on disk as soon as it is known.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from statistics import median

import numpy as np
import tvm_ffi
from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel
from tvm.s_tir.schedule import Trace
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched import pipeline
from tvm_sched.kernels import kernel_of, seen_by
from tvm_sched.kernels.base import MOST_TILES, Tile
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.passes.graph.select_kernels import Choices
from tvm_sched.records.database import Records, known_as, workload
from tvm_sched.records.recorded import settled
from tvm_sched.targets import Target
from tvm_sched.tuning.measuring import Measurer

BATCH = 4  # measurements between two looks at the cost model
LOOKS = 3  # measurements of a kernel's default and of its best, before the search believes the difference


@dataclass(frozen=True)
class Named:
    """One distinct kernel in words: how often the network calls it, and the layers that it computes."""

    name: str
    calls: int
    layers: tuple[str, ...] = ()
    shape: str = ""  # of the first, in words
    kernel: str = ""  # and its form


@dataclass(frozen=True)
class Task(Named):
    """The same as fusion made it."""

    func: PrimFunc = field(kw_only=True)


@dataclass(frozen=True)
class TaskResult:
    """A task's default and best time, in milliseconds a call; infinite where it failed, NaN where it was not tried.
    The best is the default's own where no other beat it by more than the noise.
    """

    task: Named
    measured: int
    default_ms: float
    best_ms: float


class Search:
    """What the searches of one target's tiles share: the records, the measurer, and the cost model."""

    def __init__(self, target: Target, database: Records, measurer: Measurer, trials: int, deadline: float, seed: int):
        """trials: measurements a kernel, at most. deadline: by `time.monotonic`. seed: of the cost model."""
        self.target, self.database, self.measurer = target, database, measurer
        self.trials, self.deadline = trials, deadline
        config = XGBConfig(seed=seed)
        self.model = XGBModel(config=config, num_warmup_samples=2 * BATCH, num_tuning_cores=1, tree_method="auto")

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.deadline

    def run(self, task: Task, report: Callable[[int], None] = lambda done: None) -> TaskResult:
        """Measures the tiles of one task, batch after batch, until `trials` are recorded, none is left, or the deadline
        has come.
        """
        space = Space(task.func, self.target)
        known = self.known(task.func)
        trials = min(self.trials, len(space.tiles))
        report(len(known))
        if len(known) < trials and not self.late:
            self.explore(task, space, known, trials, report)
        self.confirm(task, space, known)
        default = min(known.get(space.default, [float("nan")]))
        return TaskResult(task, len(known), 1e3 * default, 1e3 * best(known))

    def explore(
        self, task: Task, space: "Space", known: dict[str, list[float]], trials: int, report: Callable[[int], None]
    ) -> None:
        """Measures tiles that are not `known`, until `trials` are."""
        context, jobs = Context(task, self.target), self.measurer.runner.jobs
        a_batch = jobs * ceil(BATCH / jobs)  # no device of a farm is left without work
        left = [sch for sch in space.schedules if fingerprint(sch.trace) not in known]
        while left and len(known) < trials and not self.late:
            # The default comes first: what it costs is what the search is held against. Before it has data, the model's
            # scores are random numbers.
            if space.default in known and self.knows_enough:
                scores = self.model.predict(context, [candidate_of(sch) for sch in left])
                left = [left[i] for i in np.argsort(-scores, kind="stable")]
            size = min(a_batch, trials - len(known))
            batch, left = left[:size], left[size:]
            results = self.measure(task.func, batch, known)
            self.model.update(context, [candidate_of(sch) for sch in batch], results)
            report(len(known))

    @property
    def knows_enough(self) -> bool:
        """Whether the cost model's scores mean something."""
        return self.model.booster is not None and self.model.data_size >= self.model.num_warmup_samples

    def confirm(self, task: Task, space: "Space", known: dict[str, list[float]]) -> None:
        """Looks at the default and at the fastest again, in turn: the winner of one look on a noisy machine may have
        been lucky, the default unlucky.
        """
        least = {schedule: min(times) for schedule, times in known.items()}
        finalists = {space.default, min(least, key=least.__getitem__)} if space.default in least else set()
        if len(finalists) < 2 or all(len(known[each]) >= LOOKS for each in finalists):
            return
        again = [sch for sch in space.schedules if fingerprint(sch.trace) in finalists]
        while not self.late and (short := [sch for sch in again if len(known[fingerprint(sch.trace)]) < LOOKS]):
            self.measure(task.func, short, known)

    def known(self, func: PrimFunc) -> dict[str, list[float]]:
        """Seconds of each look at each schedule of a kernel that is on record."""
        known = defaultdict(list)
        for record in self.database.measured(func):
            known[fingerprint(record.trace)].append(seconds(record))
        return known

    def measure(
        self, func: PrimFunc, batch: list[Schedule], known: dict[str, list[float]]
    ) -> list[ms.runner.RunnerResult]:
        """Measures schedules of a kernel, and notes their times on record and in `known`, where one that failed is
        infinitely slow.
        """
        results = {}
        for number, result in self.measurer.measure(func, batch):
            times = [float(each) for each in result.run_secs or ()]
            known[fingerprint(batch[number].trace)].append(median(times) if times else float("inf"))
            if times:
                self.database.add(func, batch[number], [median(times)])
            results[number] = result
        return [results[number] for number in range(len(batch))]


class Space:
    """A kernel's tiles worth trying, the analytic default first, and their schedules, made when they are asked for."""

    def __init__(self, func: PrimFunc, target: Target, most: int = MOST_TILES):
        kernel, self.mod, self.target = kernel_of(func), workload(func), seen_by(func, target)
        assert kernel is not None  # only functions that hold one are tasks
        self.kernel = kernel
        self.tiles: list[Tile] = kernel.tiles(kernel.problem(Schedule(self.mod)), self.target, most)
        self.first = self.schedule(self.tiles[0])
        self.default = fingerprint(self.first.trace)

    def schedule(self, tile: Tile) -> Schedule:
        """The kernel scheduled with a tile."""
        sch = Schedule(self.mod)
        self.kernel.schedule(sch, tile, self.target)
        return sch

    @cached_property
    def schedules(self) -> list[Schedule]:
        """One a tile."""
        return [self.first, *map(self.schedule, self.tiles[1:])]


def best(known: dict[str, list[float]]) -> float:
    """Seconds of a kernel's best schedule, as compiling will choose it; NaN where there is none."""
    looks = [(schedule, each) for schedule, times in known.items() for each in times]
    return settled(looks)[1] if looks else float("nan")


def tasks_of(mod: IRModule, choices: Choices | None = None) -> list[Task]:
    """The distinct kernels that 'main' of a fused network calls, those called most often first; named after their
    layers where the `choices` of these are given.
    """
    calls: Counter[str] = Counter()
    marks = defaultdict(list)  # of the layers, by the function's name
    for binding in pipeline.kernel_bindings(mod):
        name = binding.value.args[0].name_hint
        calls[name] += 1
        if (mark := layer_of(binding.var)) in (choices or {}):
            marks[name].append(mark)
    found: dict[int, Task] = {}
    for var, func in mod.functions_items():
        if not isinstance(func, PrimFunc) or kernel_of(func) is None:
            continue
        name = var.name_hint
        told = [(choices or {})[mark] for mark in marks[name]]
        layers = tuple(dict.fromkeys(choice.name for choice in told))
        task = Task(name, calls[name], layers, *((told[0].shape, told[0].kernel) if told else ()), func=func)
        key = structural_hash(known_as(func))
        if known := found.get(key):
            task = replace(known, calls=known.calls + task.calls, layers=known.layers + layers)
        found[key] = task
    return sorted(found.values(), key=lambda task: -task.calls)


def fingerprint(trace: Trace) -> str:
    """What tells one trace from another."""
    return str(trace.as_json())


def seconds(record: ms.database.TuningRecord) -> float:
    """A record's time."""
    return median(float(each) for each in record.run_secs)


def candidate_of(sch: Schedule) -> ms.MeasureCandidate:
    """A schedule as the cost model takes it."""
    args = ms.arg_info.ArgInfo.from_entry_func(sch.mod, remove_preproc=True)
    return ms.MeasureCandidate(sch, args)


class Context(ms.TuneContext):
    """What the cost model wants to know of a task. TVM's own constructor also imports all tensor intrinsics there are:
    a minute, and none is used.
    """

    def __init__(self, task: Task, target: Target):
        make = tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContext")
        strategy = space = logger = None
        self.__init_handle_by_constructor__(
            make, workload(task.func), target.tvm(), space, strategy, task.name, 1, -1, logger
        )
