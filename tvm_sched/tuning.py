"""Tuning: each distinct kernel of a network is measured with the tiles worth trying, and the measurements are kept as records.

MetaSchedule's parts do the work: its runner measures in a process of its own, its XGBoost cost model ranks the tiles not yet measured by those
that are, its database keeps the records. The spaces are small (the schedule's form is known, see kernels/), so the search is not evolutionary:
the analytic default and the estimate's next best are measured first, then what the cost model finds most promising, a batch at a time. Each
measurement is on disk before the next batch begins; a run that is cut off goes on where it was.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel
from tvm.tirx import PrimFunc

from tvm_sched import batches, codegen, importer, pipeline, runtime, targets
from tvm_sched.errors import UserError
from tvm_sched.passes.schedule_functions import kernel_of
from tvm_sched.records import Records, workload
from tvm_sched.targets import Target

BATCH = 4  # measurements between two looks at the cost model
LOOKS = 3  # measurements of a kernel's default and of its best, before the search believes the difference
TIMEOUT_S = 60  # of one measurement
ARGUMENTS = "subp.tuning.arguments"  # name under which the measuring process finds `arguments`
# In a network a kernel finds its input in cache, and its weights where the layers since the last image have left them: the runner flushes all
# arguments but the first before each call.
TIMING = {"number": 1, "repeat": 15, "min_repeat_ms": 0, "enable_cpu_cache_flush": True}


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


def tune(
    module,
    example_input,
    *,
    target="host",
    threads=None,
    records: str | Path,
    trials: int = 16,
    minutes: float | None = None,
    seed: int = 0,
    dense: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, task: None,
) -> TuningSummary:
    """Measures up to `trials` tiles of each distinct kernel of the network on this machine, and appends them to the folder `records`.

    Arguments are those of `compile`. minutes: stop after that time. seed: of the cost model. progress: called with (trials done, trials in
    all, the task's name). What `records` holds already counts as done. Raises UserError for a network that cannot be compiled, or a target whose
    instructions this machine lacks.
    """
    began = time.monotonic()
    target = targets.get(target)
    if target.arch != targets.host().arch or not set(target.cpu_flags) <= targets.cpu_flags():
        raise UserError(f"target '{target.name}' cannot be measured on this machine, whose instructions are '{targets.host().family}'")
    most = runtime.most_threads()
    if threads is not None and not 1 <= threads <= most:
        raise UserError(f"{threads} threads asked for; this process may measure with 1 to {most}")
    target = replace(target, cores=threads or min(target.cores, most))
    imported = importer.from_torch(module, example_input, batches.parts(module, example_input, target.l2_bytes))
    selection = pipeline.fused(imported, target, dense)
    tasks = tasks_of(selection.mod, target)
    database = Records(records, target, create=True)
    deadline = began + 60 * minutes if minutes else float("inf")
    with Measurer(target) as measurer:
        model = XGBModel(config=XGBConfig(seed=seed), num_warmup_samples=2 * BATCH, num_tuning_cores=1, tree_method="auto")
        results = []
        for index, task in enumerate(tasks):
            report = partial(progress_of_task, progress, index, len(tasks), trials, task.name)
            results.append(tune_task(task, target, database, measurer, model, trials, deadline, report))
    return TuningSummary(results, measurer.failed, time.monotonic() - began)


def progress_of_task(progress, index, tasks, trials, name, done):
    """Reports `done` trials of task `index` as a share of all trials."""
    progress(index * trials + min(done, trials), tasks * trials, name)


def tasks_of(mod: IRModule, target: Target) -> list[Task]:
    """The distinct kernels that 'main' calls, those called most often first."""
    calls = [binding.value.args[0].name_hint for binding in pipeline.kernel_bindings(mod)]
    found: dict[str, Task] = {}
    for var, func in mod.functions_items():
        if not isinstance(func, PrimFunc) or kernel_of(Schedule(IRModule({"main": func})), target)[0] is None:
            continue
        key, count = tvm_ffi.structural_hash(workload(func)), calls.count(var.name_hint)
        known = found.get(key)
        found[key] = replace(known, calls=known.calls + count) if known else Task(var.name_hint, func, count)
    return sorted(found.values(), key=lambda task: -task.calls)


def tune_task(task, target, database, measurer, model, trials, deadline, report) -> TaskResult:
    """Measures the tiles of one task, batch after batch, until `trials` are recorded, none is left, or the deadline has come."""
    candidates = schedules(task.func, target)
    default = fingerprint(candidates[0].trace)
    known = defaultdict(list)  # seconds of each schedule's measurements
    for record in database.measured(task.func):
        known[fingerprint(record.trace)].append(seconds(record))
    context = Context(task, target)
    left = [sch for sch in candidates if fingerprint(sch.trace) not in known]
    trials = min(trials, len(candidates))
    report(len(known))
    while left and len(known) < trials and time.monotonic() < deadline:
        # The default comes first: what it costs is what the search is held against. Before it has data, the model's scores are random numbers.
        if default in known and model.booster is not None and model.data_size >= model.num_warmup_samples:
            scores = model.predict(context, [candidate_of(sch) for sch in left])
            left = [left[i] for i in np.argsort(-scores, kind="stable")]
        size = min(BATCH, trials - len(known))
        batch, left = left[:size], left[size:]
        results = measure(task, batch, database, measurer, known)
        model.update(context, [candidate_of(sch) for sch in batch], results)
        report(len(known))
    least = {schedule: min(times) for schedule, times in known.items()}
    # The winner of one look on a noisy machine may have been lucky, the default unlucky: both are looked at again, in turn.
    finalists = {default, min(least, key=least.get)} if default in least else set()
    while len(finalists) == 2 and time.monotonic() < deadline:
        again = [sch for sch in candidates if fingerprint(sch.trace) in finalists and len(known[fingerprint(sch.trace)]) < LOOKS]
        if not again:
            break
        measure(task, again, database, measurer, known)
    least = {schedule: min(times) for schedule, times in known.items()}
    return TaskResult(task.name, task.calls, len(known), 1e3 * least.get(default, float("nan")), 1e3 * min(least.values(), default=float("nan")))


def measure(task, batch, database, measurer, known) -> list:
    """Measures schedules of a task, and notes their times in `database` and in `known`, where one that failed is infinitely slow."""
    results = measurer.measure(batch)
    for sch, result in zip(batch, results):
        times = [float(each) for each in result.run_secs or ()]
        known[fingerprint(sch.trace)].append(median(times) if times else float("inf"))
        if times:
            database.add(task.func, sch, [median(times)])
    return results


def schedules(func: PrimFunc, target: Target) -> list[Schedule]:
    """One schedule a tile worth trying, the analytic default first."""
    mod = workload(func)
    kernel, tiles = kernel_of(Schedule(mod), target)
    made = []
    for tile in tiles:
        sch = Schedule(mod)
        kernel.schedule(sch, tile, target)
        made.append(sch)
    return made


def fingerprint(trace) -> str:
    """What tells one trace from another."""
    return str(trace.as_json())


def seconds(record) -> float:
    """A record's time."""
    return median(float(each) for each in record.run_secs)


def candidate_of(sch: Schedule):
    """A schedule as the cost model takes it."""
    args = ms.arg_info.ArgInfo.from_entry_func(sch.mod, remove_preproc=True)
    return ms.MeasureCandidate(sch, args)


class Context(ms.TuneContext):
    """What the cost model wants to know of a task. TVM's own constructor also imports all tensor intrinsics there are: a minute, and none is used."""

    def __init__(self, task: Task, target: Target):
        make = tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContext")
        strategy = space = logger = None
        self.__init_handle_by_constructor__(make, workload(task.func), target.tvm(), space, strategy, task.name, 1, -1, logger)


class Measurer:
    """Builds schedules here and runs them, one at a time, in a process of their own, which a crash or a hang does not survive but we do."""

    def __init__(self, target: Target):
        self.target, self.built, self.failed = target, 0, 0

    @cached_property
    def runner(self) -> ms.runner.LocalRunner:
        """Started when there is something to measure: it takes seconds."""
        return ms.runner.LocalRunner(
            timeout_sec=TIMEOUT_S,
            evaluator_config=ms.runner.EvaluatorConfig(**TIMING),
            f_alloc_argument=ARGUMENTS,
            initializer=partial(start_worker, self.target.cores),
        )

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *exception):
        self.folder.cleanup()
        self.__dict__.pop("runner", None)  # its process ends with it

    def measure(self, batch: list[Schedule]) -> list:
        """A RunnerResult a schedule, with `run_secs`, or with `error_msg`."""
        results = [self.run(sch) for sch in batch]
        self.failed += sum(result.error_msg is not None for result in results)
        return results

    def run(self, sch: Schedule):
        """One schedule's RunnerResult."""
        self.built += 1  # a name of its own: the measuring process would take a library of a known name for the one it has loaded
        path = str(Path(self.folder.name, f"{self.built}.so"))
        try:
            codegen.build(sch.mod, self.target).export_library(path)
        except RuntimeError as error:  # what TVM and the linker raise
            return ms.runner.RunnerResult(None, str(error))
        args = ms.arg_info.ArgInfo.from_entry_func(sch.mod, remove_preproc=True)
        (future,) = self.runner.run([ms.runner.RunnerInput(path, "cpu", args)])
        return future.result()


def start_worker(threads: int) -> None:
    """What the measuring process does first."""
    tvm_ffi.register_global_func(ARGUMENTS, arguments, override=True)
    runtime.set_threads(threads)


def arguments(device, args_info, repeat: int) -> list:
    """Arguments for a kernel: standard normal numbers, and where it takes indices, distinct sorted channels of its first argument.

    TVM's own choice draws indices beyond the channels there are, and reads outside the image.
    """
    rng = np.random.default_rng(0)
    channels = int(args_info[0][2][-1])
    made = []
    for _, dtype, shape in args_info:
        shape = [int(extent) for extent in shape]
        if dtype == "int32":
            array = np.stack([np.sort(rng.permutation(channels)[: shape[1]]) for _ in range(shape[0])]).astype(dtype)
        else:
            array = rng.standard_normal(shape, dtype="float32").astype(dtype)
        made.append(tvm.runtime.tensor(array, device))
    return [made] * repeat
