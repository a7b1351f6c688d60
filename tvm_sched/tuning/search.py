"""Tuning: each distinct kernel of a network is measured with the tiles worth trying, and the measurements are kept as
records.

The runner that is given measures, on this machine or on boards (measuring.py, farm.py). MetaSchedule's XGBoost cost
model ranks the tiles not yet measured by those that are, and the records are in its database's format. The spaces are
small (the schedule's form is known, see kernels/), so the search is not evolutionary: the analytic default and the
estimate's next best are measured first, then what the cost model finds most promising, a batch at a time. Each
measurement is on disk as soon as it is known; a run that is cut off goes on where it was.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tvm_ffi
from torch.export import ExportedProgram
from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel
from tvm.s_tir.schedule import Trace
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from subp_contract.errors import UserError
from tvm_sched import pipeline, runtime, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import Records, workload
from tvm_sched.targets import Target
from tvm_sched.tuning.farm import Farm, NoDevices
from tvm_sched.tuning.measuring import Here, Measurer

BATCH = 4  # measurements between two looks at the cost model
LOOKS = 3  # measurements of a kernel's default and of its best, before the search believes the difference


@dataclass(frozen=True)
class Task:
    """One distinct kernel, as fusion made it, and how often the network calls it."""

    name: str
    func: PrimFunc
    calls: int


@dataclass(frozen=True)
class TaskResult:
    """A task's default and best time, in milliseconds a call; infinite where it failed, NaN where it was not tried."""

    name: str
    calls: int
    measured: int
    default_ms: float
    best_ms: float


@dataclass(frozen=True)
class TuningSummary:
    """What `tune` did. `failed` counts trials that did not build or run."""

    tasks: list[TaskResult]
    failed: int
    seconds: float
    first_error: str | None = None  # of a trial that failed


def tune(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "host",
    threads: int | None = None,
    records: str | Path,
    trials: int = 16,
    minutes: float | None = None,
    seed: int = 0,
    dense: bool = False,
    farm: Farm | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, task: None,
) -> TuningSummary:
    """Measures up to `trials` tiles of each distinct kernel of the network on this machine, or on the devices of
    `farm`, and appends them to the folder `records`.

    Arguments are those of `compile`. minutes: stop after that time. seed: of the cost model. progress: called with
    (trials done, trials in all, the task's name). What `records` holds already counts as done. Raises UserError for a
    network that cannot be compiled, a target whose instructions this machine lacks, or a farm that has no device left.
    """
    began = time.monotonic()
    target = targets.get(target)
    if farm:
        target = replace(target, cores=threads or target.cores)
        farm.threads = target.cores
    else:
        target = measurable_here(target, threads)
    imported = torch_export.in_parts(module, example_inputs, example_kwargs, target.l2_bytes)
    compilation = Compilation(target, dense=dense)
    tasks, target = tasks_of(pipeline.fused(imported, compilation)), compilation.target
    database = Records(Path(records), target, create=True)
    deadline = began + 60 * minutes if minutes else float("inf")
    with farm or Here(target.cores) as runner, Measurer(target, runner) as measurer:
        model = XGBModel(
            config=XGBConfig(seed=seed), num_warmup_samples=2 * BATCH, num_tuning_cores=1, tree_method="auto"
        )
        results = []
        try:
            for index, task in enumerate(tasks):
                report = partial(progress_of_task, progress, index, len(tasks), trials, task.name)
                results.append(tune_task(task, target, database, measurer, model, trials, deadline, report))
        except NoDevices as error:
            raise NoDevices(
                f"{error}; {len(database.records)} measurements are kept in {records}: run the same again to go on"
            ) from None
    return TuningSummary(results, measurer.failed, time.monotonic() - began, measurer.first_error)


def measurable_here(target: Target, threads: int | None) -> Target:
    """The target with the threads to measure on. Raises UserError if this machine cannot run its code, or not on so
    many.
    """
    if target.arch != targets.host().arch or not set(target.cpu_flags) <= targets.cpu_flags():
        raise UserError(
            f"target '{target.name}' cannot be measured on this machine, whose instructions are "
            f"'{targets.host().family}'"
        )
    most = runtime.most_threads()
    if threads is not None and not 1 <= threads <= most:
        raise UserError(f"{threads} threads asked for; this process may measure with 1 to {most}")
    return replace(target, cores=threads or min(target.cores, most))


def progress_of_task(
    progress: Callable[[int, int, str], None], index: int, tasks: int, trials: int, name: str, done: int
) -> None:
    """Reports `done` trials of task `index` as a share of all trials."""
    progress(index * trials + min(done, trials), tasks * trials, name)


def tasks_of(mod: IRModule) -> list[Task]:
    """The distinct kernels that 'main' of a fused network calls, those called most often first."""
    calls = Counter(binding.value.args[0].name_hint for binding in pipeline.kernel_bindings(mod))
    found: dict[int, Task] = {}
    for var, func in mod.functions_items():
        if not isinstance(func, PrimFunc) or kernel_of(func) is None:
            continue
        key, count = structural_hash(workload(func)), calls[var.name_hint]
        known = found.get(key)
        found[key] = replace(known, calls=known.calls + count) if known else Task(var.name_hint, func, count)
    return sorted(found.values(), key=lambda task: -task.calls)


def tune_task(
    task: Task,
    target: Target,
    database: Records,
    measurer: Measurer,
    model: XGBModel,
    trials: int,
    deadline: float,
    report: Callable[[int], None],
) -> TaskResult:
    """Measures the tiles of one task, batch after batch, until `trials` are recorded, none is left, or the deadline has
    come.
    """
    candidates = schedules(task.func, target)
    default = fingerprint(candidates[0].trace)
    known = defaultdict(list)  # seconds of each schedule's measurements
    for record in database.measured(task.func):
        known[fingerprint(record.trace)].append(seconds(record))
    context = Context(task, target)
    left = [sch for sch in candidates if fingerprint(sch.trace) not in known]
    trials = min(trials, len(candidates))
    jobs = measurer.runner.jobs
    a_batch = jobs * ceil(BATCH / jobs)  # no device of a farm is left without work
    report(len(known))
    while left and len(known) < trials and time.monotonic() < deadline:
        # The default comes first: what it costs is what the search is held against. Before it has data, the model's
        # scores are random numbers.
        if default in known and model.booster is not None and model.data_size >= model.num_warmup_samples:
            scores = model.predict(context, [candidate_of(sch) for sch in left])
            left = [left[i] for i in np.argsort(-scores, kind="stable")]
        size = min(a_batch, trials - len(known))
        batch, left = left[:size], left[size:]
        results = measure(task, batch, database, measurer, known)
        model.update(context, [candidate_of(sch) for sch in batch], results)
        report(len(known))
    least = {schedule: min(times) for schedule, times in known.items()}
    # The winner of one look on a noisy machine may have been lucky, the default unlucky: both are looked at again, in
    # turn.
    finalists = {default, min(least, key=least.__getitem__)} if default in least else set()
    while len(finalists) == 2 and time.monotonic() < deadline:
        again = [
            sch
            for sch in candidates
            if fingerprint(sch.trace) in finalists and len(known[fingerprint(sch.trace)]) < LOOKS
        ]
        if not again:
            break
        measure(task, again, database, measurer, known)
    least = {schedule: min(times) for schedule, times in known.items()}
    return TaskResult(
        task.name,
        task.calls,
        len(known),
        1e3 * least.get(default, float("nan")),
        1e3 * min(least.values(), default=float("nan")),
    )


def measure(
    task: Task, batch: list[Schedule], database: Records, measurer: Measurer, known: dict[str, list[float]]
) -> list[ms.runner.RunnerResult]:
    """Measures schedules of a task, and notes their times in `database` and in `known`, where one that failed is
    infinitely slow.
    """
    results = {}
    for number, result in measurer.measure(task.func, batch):
        times = [float(each) for each in result.run_secs or ()]
        known[fingerprint(batch[number].trace)].append(median(times) if times else float("inf"))
        if times:
            database.add(task.func, batch[number], [median(times)])
        results[number] = result
    return [results[number] for number in range(len(batch))]


def schedules(func: PrimFunc, target: Target) -> list[Schedule]:
    """One schedule a tile worth trying, the analytic default first."""
    kernel, mod = kernel_of(func), workload(func)
    assert kernel is not None  # only functions that hold one are tasks
    made = []
    for tile in kernel.tiles(kernel.problem(Schedule(mod)), target):
        sch = Schedule(mod)
        kernel.schedule(sch, tile, target)
        made.append(sch)
    return made


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
