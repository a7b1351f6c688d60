"""What each thread of a compiled network does, part by part, measured on one core: how well the network would run on
more cores than there are.

Compiled code gives the parts of a parallel loop to TVM's pool of threads, by a pointer in the library. Here the pointer
leads to a launcher that runs the parts one after the other on the calling thread, for any number of threads, and times
each. A network's time on T threads is then, simulated,

    sum over its launches of (the longest part + a barrier) + what runs between launches,

which leaves out that cores share the last cache and memory, and that each has first and second caches of its own.
"""

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_sched.planning.sharing import SharedCall

LAUNCH_POINTER = "__TVMBackendParallelLaunch"
PART = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)  # of TVM's C interface
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Group(ctypes.Structure):
    """What a part is told of its launch."""

    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


@dataclass(frozen=True)
class Run:
    """One call of a network: microseconds of each part, [launches, threads], and of all between the launches."""

    parts_us: np.ndarray
    between_us: float


@dataclass(frozen=True)
class Simulation:
    """Of a call on so many threads, in microseconds."""

    threads: int
    total_us: float
    alone_us: float  # on one thread, its parts being the same: their sum, without barriers
    between_us: float  # of which on one thread in any case
    barriers_us: float
    uneven: np.ndarray  # [launches]: the longest part over the mean

    @property
    def speed_up(self) -> float:
        """Over the same code on one thread."""
        return self.alone_us / self.total_us


class Launcher:
    """Takes the place of TVM's pool, for `threads` threads: notes how long each part takes, and the launch itself."""

    def __init__(self, threads: int):
        self.threads = threads
        self.parts_ns: list[list[int]] = []
        self.spent_ns = 0  # in launches, with what it takes to time them
        self.function = LAUNCH(self.launch)

    def launch(self, part: int, data: int, count: int) -> int:
        """What compiled code calls instead of `TVMBackendParallelLaunch`."""
        begin = clock = time.perf_counter_ns()
        call, group = PART(part), Group(None, count or self.threads)
        times = []
        for index in range(count or self.threads):
            clock = time.perf_counter_ns()
            status = call(index, ctypes.addressof(group), data)
            times.append(time.perf_counter_ns() - clock)
            if status:
                return status
        self.parts_ns.append(times)
        self.spent_ns += time.perf_counter_ns() - begin
        return 0


@contextmanager
def launched_by(library: Path, launcher: Launcher) -> Iterator[None]:
    """A library that is loaded gives its parallel loops to `launcher` meanwhile."""
    pointer = ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), LAUNCH_POINTER)
    before = pointer.value
    pointer.value = ctypes.cast(launcher.function, ctypes.c_void_p).value
    try:
        yield
    finally:
        pointer.value = before


def runs(library: Path, call: Callable[[], object], threads: int, count: int) -> list[Run]:
    """`count` runs of a network that `call` runs, whose loaded library this is; one more is not counted."""
    launcher, found = Launcher(threads), []
    with launched_by(library, launcher):
        call()
        overhead = timing_us()
        for _ in range(count):
            launcher.parts_ns, launcher.spent_ns = [], 0
            begin = time.perf_counter_ns()
            call()
            taken = time.perf_counter_ns() - begin
            parts = np.array(launcher.parts_ns, "float64").reshape(-1, threads) / 1e3
            found.append(Run(np.maximum(parts - overhead, 0), (taken - launcher.spent_ns) / 1e3))
    return found


def timing_us(calls: int = 1000) -> float:
    """What timing adds to a part: the time of one that does nothing, the least of many."""
    nothing, group = PART(lambda index, group, data: 0), Group(None, 1)
    times = []
    for _ in range(calls):
        clock = time.perf_counter_ns()
        nothing(0, ctypes.addressof(group), None)
        times.append(time.perf_counter_ns() - clock)
    return min(times) / 1e3


def least(several: Sequence[Run]) -> Run:
    """Of several runs the least time of each part, as it is where nothing disturbs it."""
    return Run(np.min([run.parts_us for run in several], axis=0), min(run.between_us for run in several))


def simulated(run: Run, barrier_us: float) -> Simulation:
    """The call, its parts on a core each; `barrier_us` is what a launch takes besides its longest part."""
    longest, mean = run.parts_us.max(1, initial=0), run.parts_us.mean(1)
    barriers = barrier_us * len(run.parts_us) if run.parts_us.shape[1] > 1 else 0.0
    return Simulation(
        threads=run.parts_us.shape[1],
        total_us=longest.sum() + run.between_us + barriers,
        alone_us=run.parts_us.sum() + run.between_us,
        between_us=run.between_us,
        barriers_us=barriers,
        uneven=np.divide(longest, mean, out=np.ones_like(mean), where=mean > 0),
    )


def by_call(calls: Sequence[SharedCall], launches: Sequence[float]) -> list[tuple[SharedCall, list[float]]]:
    """What was found for each launch, dealt out to the calls that make them, in order. Raises ValueError where these
    are not as many.
    """
    if sum(call.launches for call in calls) != len(launches):
        raise ValueError(f"{len(launches)} launches of {sum(call.launches for call in calls)} that are known")
    rest = iter(launches)
    return [(call, [next(rest) for _ in range(call.launches)]) for call in calls]
