"""Tuning: a network's layers are measured in the forms worth trying (forms.py), the kernels that these make with the
tiles worth trying (tiles.py), and the measurements are kept as records.

The runner that is given measures, on this machine or on boards (measuring.py, farm.py). A run that is cut off goes on
where it was.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from subp_contract.arguments import finite_number, path_of, whole_number
from subp_contract.errors import UserError
from tvm_sched import pipeline, runtime, targets
from tvm_sched import precision as precisions
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.sources import network_of
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.narrow_weights import require_known
from tvm_sched.planning.plan import chooser
from tvm_sched.quiet import quiet
from tvm_sched.records.database import Records
from tvm_sched.targets import Target, cpu_model
from tvm_sched.targets.sizes import FLOAT32
from tvm_sched.tuning import finished
from tvm_sched.tuning.farm import Farm, NoDevices
from tvm_sched.tuning.forms import FormResult, Survey, measure_forms
from tvm_sched.tuning.measuring import Here, Measurer
from tvm_sched.tuning.tiles import Search, TaskResult, tasks_of


@dataclass(frozen=True)
class TuningSummary:
    """What `tune` did. `built` counts what was built to be measured, `failed` what did not build or run."""

    tasks: list[TaskResult]
    forms: list[FormResult]  # of the layers that were measured in several
    built: int
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
    precision: str = FLOAT32,
    calibration: Iterable[Any] | None = None,
    weights: str = FLOAT32,
    farm: Farm | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, task: None,
) -> TuningSummary:
    """Measures each distinct layer of the network in the forms worth trying, and up to `trials` tiles of each distinct
    kernel, on this machine or on the devices of `farm`, and appends them to the folder `records`.

    Arguments are those of `compile`; what precision 'auto' chooses is tuned in 'float32' and in 'int8', each in turn.
    minutes: stop after that time. seed: of the cost model. progress: called with (steps done, steps in all, what is
    measured), once for the forms and then for the tiles. What `records` holds of this CPU already counts as done; the
    same search on this machine again, after one with nothing left to do, answers at once (finished.py).

    Raises UserError for a network that cannot be compiled, a target whose instructions this machine lacks, or a farm
    that has no device left.
    """
    require_known(weights, precision)
    if precision == precisions.AUTO:
        raise UserError("precision auto is made of others: tune float32 and int8, each in turn")
    folder, trials = path_of("records", records), whole_number("trials", trials, least=1)
    if minutes is not None:
        finite_number("minutes", minutes, above=0)
    module, example_inputs = network_of(module, example_inputs)
    began = time.monotonic()
    target = targets.get(target)
    numbers = precisions.of(precision, target)
    target = precisions.with_flags(target, numbers)
    if farm:
        target = replace(target, cores=threads or target.cores)
        farm.threads = target.cores
    else:
        target = measurable_here(target, threads)
    key = None
    if not farm:
        calibration = None if calibration is None else list(calibration)
        given = [example_inputs, dict(example_kwargs or {}), calibration]
        options = {"target": target, "trials": trials, "dense": dense, "precision": precision, "weights": weights}
        key = finished.key_of(module, given, options | {"cpu": cpu_model()})
        if (known := finished.read(folder, key)) is not None:
            return TuningSummary(known, [], 0, 0, time.monotonic() - began)
    with quiet():
        if numbers.before:
            module = numbers.before(module, calibration, example_inputs, example_kwargs)
        imported = torch_export.in_parts(module, example_inputs, example_kwargs, target.l2_bytes)
    deadline = began + 60 * minutes if minutes else float("inf")
    with farm or Here(target.cores) as runner, Measurer(target, runner) as measurer:
        database = Records(folder, target, create=True, cpu=runner.cpu)
        times = database.form_times
        survey = Survey(times.of)
        lowering = partial(Compilation, target, dense=dense, weights=weights, precision=numbers)
        compilation = lowering(choose=survey)
        mod = pipeline.fused(imported, compilation)
        measurer.target = target = compilation.target
        search = Search(target, database, measurer, trials, deadline, seed)
        forms: list[FormResult] = []
        tasks: list[TaskResult] = []
        try:
            if missing := survey.missing(times.own):
                forms = measure_forms(imported, lowering, missing, search, times, progress)
                compilation = lowering(choose=chooser(times.of))
                mod = pipeline.fused(imported, compilation)
            found = tasks_of(mod, compilation.choices)
            for index, task in enumerate(found):
                report = partial(progress_of_task, progress, index, len(found), trials, task.name)
                tasks.append(search.run(task, report))
        except NoDevices as error:
            raise NoDevices(
                f"{error}; {len(database.records)} measurements are kept in {records}: run the same again to go on"
            ) from None
        if not search.late and not measurer.failed:
            finished.write(folder, key, tasks)
    seconds = time.monotonic() - began
    return TuningSummary(tasks, forms, measurer.built, measurer.failed, seconds, measurer.first_error)


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
