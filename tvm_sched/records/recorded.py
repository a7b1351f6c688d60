"""What records know of one function, and which of them a number of threads can use.

A record is for the threads that it was measured on. `parallel` gives each thread one piece of the loop, so that a
schedule for others is as good a choice where its loops divide into equal pieces, and a poor one where a thread waits
for the rest: then the kernel's analytic default, which knows the number of threads, is the better guess.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from subp_contract.errors import Notice, first_line
from tvm_sched.planning.plan import NOISE
from tvm_sched.planning.sharing import parallel_loops
from tvm_sched.records import traces
from tvm_sched.records.form_times import FormTimes
from tvm_sched.records.problem_key import problem_key
from tvm_sched.records.wide_twin import wide_twin
from tvm_sched.targets import Target

# Of ResNet-50, schedules measured on one thread were 1.3 times as slow on sixteen, simulated, as the analytic choice.
TIMES_THREADS = 8


@dataclass(frozen=True)
class Recorded:
    """A function's schedule on record."""

    threads: int  # that it was measured on, or estimated for
    own: bool  # whether these are the threads that were asked for
    estimated: bool
    cost: float  # seconds of a call; of an estimate those at 1 GHz
    replay: Callable[[], Schedule]
    cpu: str = ""  # that it was measured on, where that is another than this one and known
    twin: bool = False  # whether it is that of the function with float32 weights
    where: str = ""  # it stands, in words
    trace: list | None = None  # that is replayed, if it comes from a file

    @cached_property
    def schedule(self) -> Schedule:
        """The function with the record's decisions applied."""
        return self.replay()

    @cached_property
    def fault(self) -> str:
        """Why it cannot be used, in words; '' where it can."""
        if self.trace is not None and (why := traces.fault(self.trace)):
            return why
        try:
            func = self.schedule.mod["main"]
        except Exception as error:  # of any kind: TVM's primitives have many ways to stop
            return f"it does not fit its function: {first_line(error)[:200]}"
        return traces.too_large(func) if self.trace is not None else ""

    @property
    def words(self) -> str:
        """What the schedule comes from: 'record', 'estimate', 'record of 1 thread', 'record for float32 weights',
        'record: made on AMD EPYC'.
        """
        word = "estimate" if self.estimated else "record"
        threads = "" if self.own else f" of {in_words(self.threads)}"
        weights = " for float32 weights" if self.twin else ""
        return f"{word}{threads}{weights}" + (f": made on {self.cpu}" if self.cpu else "")

    def seconds(self, ghz: float) -> float | None:
        """What a call takes, an estimated one at `ghz`; None where that is known of another number of threads only."""
        return self.cost / (ghz if self.estimated else 1) if self.own else None


class KnownRecords:
    """What records answer in whichever format: each question hashes the function once."""

    renewed_by: ClassVar[str]  # options of 'subp tune', before such a folder

    wrong: Callable[[PrimFunc, "Recorded"], str] | None = None  # why a record's numbers are wrong; of ours none are

    def __init__(self, folder: Path, target: Target, form_times: FormTimes):
        self.folder, self.target, self.form_times = Path(folder), target, form_times
        self.changed: set[str] = set()  # problems of kernels that were looked up, and are on record as other code

    def forms(self, layer: str) -> Mapping[str, float]:
        """The measured seconds of a layer in its forms, see `planning.plan.layer_key`; empty where there are none."""
        return self.form_times.of(layer)

    def known(self, func: PrimFunc, onto: PrimFunc | None = None) -> list[Recorded]:
        """The record of `func` on each number of threads that there is one for, with the target's instructions. `onto`:
        the function that is to be scheduled so, if another.
        """
        raise NotImplementedError

    def has(self, func: PrimFunc) -> bool:
        """Whether there is any record of `func`, usable or not, with the target's instructions."""
        raise NotImplementedError

    @property
    def problems(self) -> Set[str]:
        """The `problem_key` of each kernel that is on record with the target's instructions, where it is known."""
        raise NotImplementedError

    def lookup(self, func: PrimFunc) -> Recorded | None:
        """The record to schedule `func` by, see `usable`; None if there is none. A function of 16-bit weights may take
        that of its twin.
        """
        wrong = None if self.wrong is None else partial(self.wrong, func)
        found = usable(self.known(func), self.target.cores, wrong)
        if found is None and (twin := wide_twin(func)) is not None:
            twins = [replace(each, twin=True) for each in self.known(twin, func)]
            found = usable(twins, self.target.cores, wrong)
        if found is None and (problem := problem_key(func)) in self.problems and not self.has(func):
            self.changed.add(problem)
        return found

    def tell_changed(self) -> None:
        """Warns with a Notice where kernels that were looked up since the last call are on record as other code."""
        if not self.changed:
            return
        count = len(self.changed)
        self.changed.clear()
        warnings.warn(
            f"kernels that are on record in {self.folder} as other code (of another version, or with other operators "
            f"behind), and so left without a record: {count}; 'subp tune MODEL {self.renewed_by} {self.folder}' "
            "measures again",
            Notice,
            stacklevel=2,
        )

    def own(self, func: PrimFunc) -> Recorded | None:
        """The record of `func` on as many threads, which tells how long it takes; None if there is none."""
        return next((each for each in self.known(func) if each.own), None)


def usable(known: Iterable[Recorded], threads: int, wrong: Callable[[Recorded], str] | None = None) -> Recorded | None:
    """Of a function's records, one a number of threads, the one that was asked for, else the nearest, within
    TIMES_THREADS, that gives each of `threads` threads equal work; what was measured before what was estimated. None if
    there is none. One that has a fault, or is `wrong`, is told as a Notice and left out.
    """
    for each in sorted(known, key=lambda each: (each.estimated, abs(each.threads - threads), each.threads)):
        if (why := each.fault) and each.twin:  # whose schedule need not fit this function
            continue
        suits = not why and (
            each.own or (near(each.threads, threads) and shares_equally(each.schedule.mod["main"], threads))
        )
        if suits and not (why := wrong(each) if wrong else ""):
            return each
        if why:
            warnings.warn(f"{each.where or 'a record'} is left out: {why}", Notice, stacklevel=2)
    return None


def near(threads: int, others: int) -> bool:
    """Whether a schedule for one number of threads may suit another."""
    return max(threads, others) <= TIMES_THREADS * min(threads, others)


def distance(cpu: str, here: str) -> int:
    """How far records of a CPU are from this one's: the same model, another, one that is not known, ''."""
    return 0 if cpu == here else 1 if cpu else 2


def settled(looks: Iterable[tuple[str, float]]) -> tuple[str, float]:
    """(schedule, seconds) of a kernel's measurements, (schedule, seconds) in the order in which they were made: the
    fastest schedule by the least of its looks, but the first, which is the default, unless it is beaten by more than
    the noise.
    """
    least: dict[str, float] = {}
    for schedule, seconds in looks:
        least[schedule] = min(seconds, least.get(schedule, seconds))
    first, best = next(iter(least)), min(least, key=least.__getitem__)
    chosen = first if least[first] <= least[best] * (1 + NOISE) else best
    return chosen, least[chosen]


def shares_equally(func: PrimFunc, threads: int) -> bool:
    """Whether each parallel loop of a scheduled function divides into equal pieces; one too small to have any does."""
    return all(loop.extent % threads == 0 for loop in parallel_loops(func))


def in_words(threads: int) -> str:
    """'1 thread', '2 threads'"""
    return f"{threads} thread{'' if threads == 1 else 's'}"
