"""What records know of one function.

A record is for the threads that it was measured on: how threads cut an image is part of its schedule. On others the
kernel's analytic default is the better guess, which knows how many they are, and how its neighbours are cut
(`kernels/ownership.py`): two threads run ResNet-18 and MobileNetV1 by it 1 and 5 % faster than by records of one. Of
the forms of a layer, which threads change less, others' times are used, see `planning.plan.carried_over`.
"""

import warnings
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from subp_contract.errors import Notice, first_line
from tvm_sched.planning.plan import NOISE, Chooser, chooser
from tvm_sched.records import traces
from tvm_sched.records.form_times import FormTimes
from tvm_sched.records.problem_key import problem_key
from tvm_sched.records.wide_twin import wide_twin
from tvm_sched.targets import Target


@dataclass(frozen=True)
class Recorded:
    """A function's schedule on record."""

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
        """What the schedule comes from: 'record', 'estimate', 'record for float32 weights', 'record: made on AMD
        EPYC'.
        """
        word = "estimate" if self.estimated else "record"
        weights = " for float32 weights" if self.twin else ""
        return f"{word}{weights}" + (f": made on {self.cpu}" if self.cpu else "")

    def seconds(self, ghz: float) -> float:
        """What a call takes, an estimated one at `ghz`."""
        return self.cost / (ghz if self.estimated else 1)


class KnownRecords:
    """What records answer in whichever format: each question hashes the function once."""

    renewed_by: ClassVar[str]  # options of 'subp tune', before such a folder

    wrong: Callable[[PrimFunc, "Recorded"], str] | None = None  # why a record's numbers are wrong; of ours none are

    def __init__(self, folder: Path, target: Target, form_times: FormTimes):
        self.folder, self.target, self.form_times = Path(folder), target, form_times
        self.changed: set[str] = set()  # problems of kernels that were looked up, and are on record as other code

    def chooser(self) -> Chooser:
        """Chooses the forms of layers by what was measured of them."""
        return chooser(self.form_times.of, self.form_times.on_others)

    def known(self, func: PrimFunc, onto: PrimFunc | None = None) -> Recorded | None:
        """The record of `func` with the target's instructions and number of threads; None if there is none. `onto`: the
        function that is to be scheduled so, if another.
        """
        raise NotImplementedError

    def has(self, func: PrimFunc) -> bool:
        """Whether there is any record of `func`, of any number of threads, with the target's instructions."""
        raise NotImplementedError

    @property
    def problems(self) -> Set[str]:
        """The `problem_key` of each kernel that is on record with the target's instructions, where it is known."""
        raise NotImplementedError

    def lookup(self, func: PrimFunc) -> Recorded | None:
        """The record to schedule `func` by; None if there is none. A function of 16-bit weights may take that of its
        twin. One that has a fault, or is `wrong`, is told as a Notice and left out.
        """
        found = self.usable(func, self.known(func))
        if found is None and (twin := wide_twin(func)) is not None:
            known = self.known(twin, func)
            found = self.usable(func, known and replace(known, twin=True))
        if found is None and (problem := problem_key(func)) in self.problems and not self.has(func):
            self.changed.add(problem)
        return found

    def usable(self, func: PrimFunc, record: Recorded | None) -> Recorded | None:
        """The record, if it can be used for `func`."""
        if record is None or (record.twin and record.fault):  # a twin's schedule need not fit this function
            return None
        if why := record.fault or (self.wrong(func, record) if self.wrong else ""):
            warnings.warn(f"{record.where or 'a record'} is left out: {why}", Notice, stacklevel=2)
            return None
        return record

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
