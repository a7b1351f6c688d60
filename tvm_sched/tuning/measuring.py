"""What measuring a kernel takes: a library built of its schedule, arguments, and a runner that times it, here or on a
board.

A runner's `submit` takes MetaSchedule's RunnerInput and gives a Future of its RunnerResult: `Here`, or `farm.Farm`.
Nothing but TVM's runtime is needed where the library runs: its arguments are made here.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from functools import cached_property, partial
from pathlib import Path

import tvm_ffi
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.runner import (
    EvaluatorConfig,
    LocalRunner,
    RunnerInput,
    RunnerResult,
)

from subp_contract.errors import UserError
from tvm_sched import codegen, runtime
from tvm_sched.deploy import toolchain
from tvm_sched.targets import Target
from tvm_sched.tuning.kernel_arguments import TIMING, arguments

TIMEOUT_S = 60  # of one measurement
ARGUMENTS = "subp.measuring.arguments"  # name under which the measuring process finds `arguments`


class Measurer:
    """Builds schedules here, and has them run by `runner`."""

    def __init__(self, target: Target, runner):
        """Raises UserError where there is no linker for the target."""
        self.target, self.runner, self.compiler = target, runner, toolchain.linker(target)
        self.built, self.failed, self.first_error = 0, 0, None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *exception):
        self.folder.cleanup()

    def measure(self, batch: list[Schedule]) -> Iterator[tuple[int, RunnerResult]]:
        """(number in the batch, RunnerResult with `run_secs` or with `error_msg`) of each schedule, as they become
        known.

        What stops the runner is raised when all that it has measured has been told.
        """
        pending: dict[Future, int] = {}
        stopped: list[BaseException] = []

        def told(futures):
            for future in futures:
                number = pending.pop(future)
                if error := future.exception():
                    stopped.append(error)
                else:
                    yield number, self.noted(future.result())

        for number, sch in enumerate(batch):
            pending[self.submit(sch)] = number
            yield from told([future for future in pending if future.done()])
        yield from told(as_completed(list(pending)))
        if stopped:
            raise stopped[0]

    def noted(self, result: RunnerResult) -> RunnerResult:
        """The result, counted if it is a failure."""
        if result.error_msg is not None:
            self.failed += 1
            self.first_error = self.first_error or (result.error_msg.strip().splitlines() or ["no reason given"])[-1]
        return result

    def submit(self, sch: Schedule) -> Future:
        """The Future of one schedule's RunnerResult."""
        self.built += 1  # a name of its own: a process would take a library of a known name for the one it has loaded
        path = str(Path(self.folder.name, f"{self.built}.so"))
        try:
            codegen.build(sch.mod, self.target).export_library(path, fcompile=self.link)
        except (RuntimeError, UserError) as error:  # what TVM and the linker raise
            return done(RunnerResult(None, str(error)))
        return self.runner.submit(RunnerInput(path, "cpu", ArgInfo.from_entry_func(sch.mod, remove_preproc=True)))

    def link(self, output, files, **_):
        """What TVM calls to link its object files."""
        toolchain.link(output, files, self.compiler, manifest=b"")

    link.object_format = "o"


class Here:
    """Runs kernels on this machine, one at a time, in a process of their own, which a crash or a hang does not survive
    but we do.
    """

    jobs = 1

    def __init__(self, threads: int):
        self.threads = threads

    @cached_property
    def runner(self) -> LocalRunner:
        """Started when there is something to measure: it takes seconds."""
        return LocalRunner(
            timeout_sec=TIMEOUT_S,
            evaluator_config=EvaluatorConfig(**TIMING),
            f_alloc_argument=ARGUMENTS,
            initializer=partial(start_worker, self.threads),
        )

    def submit(self, kernel: RunnerInput) -> Future:
        """Measures at once: a build beside it would disturb it."""
        (measured,) = self.runner.run([kernel])
        return done(measured.result())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.__dict__.pop("runner", None)  # its process ends with it


def done(result) -> Future:
    """A Future that has come."""
    future = Future()
    future.set_result(result)
    return future


def start_worker(threads: int) -> None:
    """What the measuring process does first."""
    tvm_ffi.register_global_func(ARGUMENTS, arguments, override=True)
    runtime.set_threads(threads)
