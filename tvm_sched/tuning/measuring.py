"""What measuring a kernel takes: a library built of its schedule, arguments, and a runner that times it, here or on a
board.

A runner's `submit` takes a Job and gives a Future of MetaSchedule's RunnerResult; `cpu` says whose times these are:
`Here`, or `farm.Farm`. Nothing but
TVM's runtime is needed where the library runs: the kernel's arguments are made here, once for all of its tiles.
"""

from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from contextlib import ExitStack
from dataclasses import dataclass

from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.tirx import PrimFunc

from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched import codegen
from tvm_sched.deploy import objects, toolchain
from tvm_sched.targets import Target, cpu_model
from tvm_sched.tuning import timing
from tvm_sched.tuning.measuring_process import MeasuringProcess
from tvm_sched.verification.recorded_kernels import arguments

TIMEOUT_S = 60  # of one measurement


@dataclass(frozen=True)
class Job:
    """A kernel to time: two files."""

    library: str
    arguments: str


class Measurer:
    """Builds schedules here, and has them run by `runner`."""

    def __init__(self, target: Target, runner):
        """Raises UserError where there is no linker for the target."""
        self.target, self.runner, self.compiler = target, runner, toolchain.linker(target)
        self.built, self.failed, self.first_error = 0, 0, None
        self.held = ExitStack()  # its folder, while it measures
        self.arguments = {}  # function -> the file of its arguments

    def __enter__(self):
        self.folder = self.held.enter_context(scratch_folder())
        return self

    def __exit__(self, *exception):
        self.held.close()

    def measure(self, func: PrimFunc, batch: list[Schedule]) -> Iterator[tuple[int, RunnerResult]]:
        """(number in the batch, RunnerResult with `run_secs` or with `error_msg`) of each schedule of the function, as
        they become known.

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
            pending[self.submit(func, sch)] = number
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

    def submit(self, func: PrimFunc, sch: Schedule) -> Future:
        """The Future of one schedule's RunnerResult."""
        self.built += 1  # a name of its own: a process would take a library of a known name for the one it has loaded
        path = self.folder / f"{self.built}.so"
        try:
            objects.export(codegen.build_alone(sch.mod, self.target), path, self.link)
            job = Job(str(path), self.arguments_of(func))
        except (RuntimeError, UserError, OSError) as error:  # what TVM, the linker and a full disk raise
            return done(RunnerResult(None, str(error)))
        return self.runner.submit(job)

    def arguments_of(self, func: PrimFunc) -> str:
        """The file of the function's arguments."""
        if func not in self.arguments:
            path = str(self.folder / f"arguments{len(self.arguments)}.npz")
            timing.save_arguments(path, arguments(func))
            self.arguments[func] = path
        return self.arguments[func]

    def link(self, output, files, **_):
        """What TVM calls to link its object files."""
        toolchain.link(output, files, self.compiler, manifest=b"")

    link.object_format = "o"


class Here:
    """Runs kernels on this machine, one at a time, in a process that is started when there is something to measure."""

    jobs = 1

    def __init__(self, threads: int):
        self.threads, self.cpu = threads, cpu_model()
        self.process: MeasuringProcess | None = None

    def submit(self, job: Job) -> Future:
        """Measures at once: a build beside it would disturb it."""
        try:
            self.process = self.process or MeasuringProcess(self.threads)
            told = self.process.seconds(job.library, job.arguments, TIMEOUT_S)
        except TimeoutError:
            self.end()
            told = f"gave no result in {TIMEOUT_S} s"
        except (OSError, EOFError):
            self.end()
            told = "the process that measures has ended"
        return done(RunnerResult(None, told) if isinstance(told, str) else RunnerResult(told, None))

    def end(self) -> None:
        """Ends the process, if there is one; the next job gets another."""
        if self.process:
            self.process.end()
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end()


def done(result) -> Future:
    """A Future that has come."""
    future = Future()
    future.set_result(result)
    return future
