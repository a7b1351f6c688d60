"""Latency, honestly: candidates measured in turn on one machine, for rows (rows.py) that hold their own conditions.

What makes one measurement lie about another, and what is done here:

- The machine drifts (clock, neighbours): candidates are measured in turn, in short bursts, another one first in each
  round.
- A candidate leaves threads spinning, or its data in the caches: each burst begins with a pause and calls that do not
  count.
- An engine binds the calling thread to a core, and the next engine's threads inherit that: the affinity is set back
  before each burst.
- Python's garbage collector runs in the middle: it is off during a burst.
- Other programs take the cores away: that cannot be undone, so `MachineState` says whether they did.

Times are wall-clock milliseconds of single calls from Python, inputs ready made.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_sched import runtime
from tvm_sched.targets import cpu_flags, cpu_name

PAUSE_S = 0.005  # before a burst: longer than idle workers of OpenMP, ONNX Runtime and TVM spin
WARM_UP_S = 0.02  # calls at the start of a burst that do not count, at least one
ROUNDS = 10  # of a measurement
QUIET = 0.05  # share of the time that programs may wait for a core on a quiet machine


@dataclass(frozen=True)
class Candidate:
    """What to measure: `call`, and `prepare`, run untimed before each burst (global state, such as thread counts)."""

    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Timing:
    """Of `runs` single calls, in milliseconds."""

    median_ms: float
    p90_ms: float
    min_ms: float
    runs: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Timing":
        """From at least one time."""
        median, p90 = np.percentile(times_ms, (50, 90))
        return cls(float(median), float(p90), float(min(times_ms)), len(times_ms))


Round = dict[str, list[float]]  # milliseconds of each candidate's calls


def measure(candidates: Mapping[str, Candidate], seconds: float = 10.0, rounds: int = ROUNDS) -> dict[str, Timing]:
    """The timing of each candidate's call, all measured in turn for about `seconds` together."""
    return timings(measure_rounds(candidates, seconds, rounds))


def timings(rounds: Sequence[Round]) -> dict[str, Timing]:
    """The timing of each candidate over some rounds, at least one."""
    return {name: Timing.of([time for each in rounds for time in each[name]]) for name in rounds[0]}


def measure_rounds(
    candidates: Mapping[str, Candidate],
    seconds: float = 10.0,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Round]:
    """The times of each candidate's calls in rounds of about `seconds` together. `progress`: called between them with
    (rounds done, in all).

    Every round gives each candidate a burst of the same length, at least one call. Calls too slow for that take as long
    as they take, in at least three rounds. An exception of a candidate ends the measurement.
    """
    names = list(candidates)
    measured: list[Round] = []
    burst_s = seconds / (rounds * len(names))
    affinity = _affinity()
    end = time.perf_counter() + seconds
    try:
        for round_ in range(rounds):
            if round_ >= 3 and time.perf_counter() > end:
                break
            first, row = round_ % len(names), {}
            for name in names[first:] + names[:first]:
                _set_affinity(affinity)
                row[name] = _burst(candidates[name], burst_s)
            measured.append(row)
            progress(len(measured), rounds)
    finally:
        _set_affinity(affinity)
    return measured


def _burst(candidate: Candidate, seconds: float) -> list[float]:
    """Times of single calls, in milliseconds, for about `seconds` with the warm-up."""
    time.sleep(PAUSE_S)
    candidate.prepare()
    start = time.perf_counter()
    candidate.call()
    while time.perf_counter() < start + min(WARM_UP_S, seconds / 4):
        candidate.call()
    times_ms = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        while not times_ms or time.perf_counter() < start + seconds:
            before = time.perf_counter_ns()
            candidate.call()
            times_ms.append((time.perf_counter_ns() - before) / 1e6)
    finally:
        if collecting:
            gc.enable()
    return times_ms


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Runs this thread, and threads that it starts meanwhile, on these CPUs only; no effect where none can be set."""
    runtime.make_pool()  # TVM's workers would else keep to these CPUs for good
    before = _affinity()
    _set_affinity(set(cpus))
    try:
        yield
    finally:
        _set_affinity(before)


def fastest_cpus(count: int, root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """`count` of the CPUs that this process may use, or all: the big cores first where cores differ, then by number."""

    def rate(cpu: int) -> int:
        for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
            if (text := _read(root / f"cpu{cpu}" / name)).isdigit():
                return int(text)
        return 0

    return sorted(usable_cpus(), key=lambda cpu: (-rate(cpu), cpu))[:count]


def usable_cpus() -> list[int]:
    """Numbers of the CPUs that this process may use."""
    return sorted(_affinity() or range(os.cpu_count() or 1))


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _set_affinity(cpus: set[int]) -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


@dataclass(frozen=True)
class MachineState:
    """The machine at one moment, as a rule right after something was measured; None or empty where it does not tell."""

    cpu: str
    cores: int  # that this process may use
    isa: list[str]  # vector instruction sets, as Linux names them
    governor: str | None  # of the first core's clock
    load: float | None  # runnable processes, mean of the last minute
    waiting: float | None  # share of the last ten seconds in which some program waited for a core

    @classmethod
    def now(cls) -> "MachineState":
        """Of this machine."""
        return cls(
            cpu=cpu_name(),
            cores=len(usable_cpus()),
            isa=vector_isa(),
            governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or None,
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            waiting=waiting_share(_read(Path("/proc/pressure/cpu"))),
        )

    @property
    def quiet(self) -> bool:
        """Whether times measured just now can be trusted: next to nothing waited for a core."""
        return self.waiting is None or self.waiting <= QUIET

    def __str__(self) -> str:
        governor = f", governor {self.governor}" if self.governor else ""
        return f"{self.cpu}, {self.cores} cores, {' '.join(self.isa)}{governor}{self.noise}"

    @property
    def noise(self) -> str:
        """A warning to add to a sentence about the machine; empty where it was quiet."""
        return "" if self.quiet else f", NOT QUIET: programs waited for a core {self.waiting:.0%} of the time"


def waiting_share(pressure: str) -> float | None:
    """`MachineState.waiting` from Linux's pressure file for CPUs, 'some avg10=0.41 avg60=...'; None if it is empty."""
    fields = dict(word.split("=") for word in pressure.partition("\n")[0].split()[1:])
    return float(fields["avg10"]) / 100 if fields else None


def vector_isa() -> list[str]:
    """Vector instruction sets that kernels care for, as Linux names them; empty where it does not say."""
    flags = cpu_flags()
    return [flag for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "asimd", "asimddp", "sve") if flag in flags]


def _read(path: Path) -> str:
    """The text of a file that the system may lack, stripped; empty then."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
