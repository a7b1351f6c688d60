"""Tuning records: MetaSchedule's JSON database in a folder, `database_workload.json` beside
`database_tuning_record.json`.

A record says: this function, on this target, ran so long with this trace of scheduling decisions. A function is looked
up by its structure (shapes, block size, kept blocks a row, stride, epilogue), not by its weights, its pattern or, in 8
bits, its scales: any network that has the shape finds it.
"""

import json
import math
import warnings
from collections.abc import Set
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from subp_contract.documents import is_of_kind, shown
from subp_contract.errors import Notice, UserError, first_line
from subp_contract.scratch import scratch_folder
from tvm_sched.kernels import kernel_of
from tvm_sched.kernels.integer import dots
from tvm_sched.kernels.rewrites import interleave, transpose
from tvm_sched.records import traces
from tvm_sched.records.form_times import FormTimes
from tvm_sched.records.json_lines import JsonLines, locked
from tvm_sched.records.problem_key import problem_key
from tvm_sched.records.recorded import KnownRecords, Recorded, distance, settled
from tvm_sched.targets import Target, cpu_model
from tvm_sched.targets.sizes import FLOAT32

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
NUMBERS = ("uint8", "int8", "int16")  # dtypes of a quantised network's numbers, and of what they are clipped as
CPU = "model"  # TVM's name, in a record's target, for the CPU that it was measured on
VERSION, MADE_WITH = "tag", "tvm-"  # a record's target is tagged with TVM's version: "tvm-0.27.0"


class _OfTarget(msgspec.Struct):
    """What is read of a record's target, as TVM writes it."""

    keys: Annotated[list[str], msgspec.Meta(min_length=1)]
    cores: int = msgspec.field(name="num-cores")
    model: str = ""


class Records(KnownRecords):
    """The records of one target, in `folder`, to which several processes may add at once.

    MetaSchedule's JSONDatabase has the same files, but it makes an object of every trace: seconds, where a compilation
    needs a few of some hundred. Here a record stays JSON until it is asked for. Nor does it share them: a record names
    its workload by the number of a line, which another process may have written.
    """

    renewed_by = "--records"

    def __init__(self, folder: Path, target: Target, create: bool = False, cpu: str | None = None):
        """Opens the folder; `create` makes an empty one. cpu: the model that is measured, this machine's if None.
        Raises UserError where there is none, or where a file is damaged.
        """
        folder = Path(folder)
        if create:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (WORKLOADS, RECORDS):  # a search that had no time has no records, which is no mistake
                (folder / name).touch()
        elif not (folder / RECORDS).is_file() or not (folder / WORKLOADS).is_file():
            raise UserError(f"no tuning records in {folder}; make some with 'subp tune', or compile without")
        self.writes, self.cpu = create, cpu or cpu_model()
        self.workloads: list[ms.database.Workload] = []
        self.records: list[list] = []  # [number of the workload, record as JSON]
        self.numbers: dict[int, int] = {}  # structural hash of a workload -> its number
        self.problem_of: dict[int, str] = {}  # number of a workload -> its `problem_key`, once it has been asked for
        self.workload_lines = JsonLines(folder / WORKLOADS, is_workload)
        self.record_lines = JsonLines(folder / RECORDS, lambda line: is_record(line, len(self.workloads)))
        super().__init__(folder, target, FormTimes(folder, target, self.cpu, create))
        with locked(folder, write=create):
            self.read()

    def read(self) -> None:
        """Takes in what the files have gained since, from any process. The folder must be locked."""
        for line in self.workload_lines.read(repair=self.writes):
            self.know(read_workload(line, len(self.workloads) + 1, self.folder / WORKLOADS))
        self.records += self.record_lines.read(repair=self.writes)

    def know(self, entry: ms.database.Workload) -> None:
        """Remembers the workload of the next line."""
        self.numbers.setdefault(structural_hash(entry.mod), len(self.workloads))
        self.workloads.append(entry)

    def known(self, func: PrimFunc, onto: PrimFunc | None = None) -> Recorded | None:
        """The best record of `func`, see `settled`; this CPU's model first. `onto` as the base's."""
        mod, mine = workload(func if onto is None else onto), self.of(known_as(func))
        measured = [
            record
            for record in mine
            if record[2]["num-cores"] == self.target.cores
            and not other_version(version_of(record), f"a record in {self.folder}")
        ]
        if not measured:
            return None
        nearest = min({cpu_of(record) for record in measured}, key=lambda cpu: (distance(cpu, self.cpu), cpu))
        looks = [(json.dumps(record[0]), median(record[1])) for record in measured if cpu_of(record) == nearest]
        trace, seconds = settled(looks)
        steps = json.loads(trace)
        replay, cpu = partial(replayed, mod, steps), "" if nearest == self.cpu else nearest
        line = next(line for line, (_, each) in enumerate(self.records, 1) if each[0] == steps and each in measured)
        return Recorded(False, seconds, replay, cpu, where=f"line {line} of {self.folder / RECORDS}", trace=steps)

    def has(self, func: PrimFunc) -> bool:
        """As the base's."""
        return bool(self.of(known_as(func)))

    @property
    def problems(self) -> Set[str]:
        """As the base's."""
        mine = {number for number, record in self.records if record[2]["keys"][0] == self.target.family}
        for number in mine - self.problem_of.keys():
            self.problem_of[number] = problem_key(self.workloads[number].mod["main"])
        return {self.problem_of[number] for number in mine} - {""}

    def measured(self, func: PrimFunc) -> list:
        """The records of `func` with the target's instructions on as many threads of this CPU's model, in the order in
        which they were made.
        """
        mod = known_as(func)
        own = self.target.cores, self.cpu
        mine = [
            record
            for record in self.of(mod)
            if (record[2]["num-cores"], cpu_of(record)) == own
            and version_of(record) in ("", traces.version())
            and not traces.fault(record[0])
        ]
        for trace, *_ in mine:
            transpose.make_needed(trace)
            interleave.make_needed(trace)
            dots.make_needed(trace)
        return [ms.database.TuningRecord.from_json(record, ms.database.Workload(mod)) for record in mine]

    def of(self, mod: IRModule) -> list[list]:
        """The records of a kernel, `mod` as `known_as` makes it, with the target's instructions, in order.

        Records that are open to be added to have what other processes have added by now.
        """
        if self.writes:
            with locked(self.folder, write=True):
                self.read()
        number = self.numbers.get(structural_hash(mod))
        return [record for of, record in self.records if of == number and record[2]["keys"][0] == self.target.family]

    def add(self, func: PrimFunc, schedule: Schedule, seconds: list[float]) -> None:
        """Appends a measurement; it is on disk when this returns."""
        entry, record = as_json(func, schedule, seconds, self.target)
        record[2][CPU], record[2][VERSION] = self.cpu, f"{MADE_WITH}{traces.version()}"
        with locked(self.folder, write=True):
            self.read()
            number = self.numbers.get(structural_hash(known_as(func)))
            if number is None:
                number = len(self.workloads)
                self.workload_lines.append(entry)
                self.know(ms.database.Workload.from_json(entry))
            self.records.append(self.record_lines.append([number, record]))


def read_workload(line: list, number: int, file: Path) -> ms.database.Workload:
    """Of the JSON of a file's line of that number. Raises UserError where TVM cannot read it."""
    try:
        return ms.database.Workload.from_json(line)
    except Exception as error:  # of any kind: TVM's reader has many
        raise UserError(
            f"line {number} of {file} is damaged ({shown(first_line(error))}); move that folder of records away and "
            "tune again"
        ) from None


def as_json(func: PrimFunc, schedule: Schedule, seconds: list[float], target: Target) -> tuple[list, list]:
    """(workload, record) as the lines of MetaSchedule's database have them. Its writer alone knows how, and it only
    writes to files.
    """
    with scratch_folder() as folder:
        files = [folder / name for name in (WORKLOADS, RECORDS)]
        database = ms.database.JSONDatabase(*map(str, files))
        entry = database.commit_workload(known_as(func))
        args = ms.arg_info.ArgInfo.from_entry_func(entry.mod, remove_preproc=True)
        database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, entry, seconds, target.tvm(), args))
        line, (_, record) = [json.loads(file.read_bytes()) for file in files]
    return line, record


def cpu_of(record: list) -> str:
    """The model of the CPU that a record was made on; '' where it does not say."""
    return record[2].get(CPU, "")


def version_of(record: list) -> str:
    """The version of TVM that a record was made with; '' where it does not say."""
    tag = str(record[2].get(VERSION, ""))
    return tag.removeprefix(MADE_WITH) if tag.startswith(MADE_WITH) else ""


def other_version(version: str, where: str) -> bool:
    """Whether a record was made with another version of TVM, which schedules otherwise: a Notice says so."""
    if version in ("", traces.version()):
        return False
    warnings.warn(
        f"{where} is left out: it was made with TVM {version[:20]}, and this is {traces.version()}; tune again",
        Notice,
        stacklevel=2,
    )
    return True


def workload(func: PrimFunc) -> IRModule:
    """`func` as a module of its own, free of the names and attributes that a network gave it."""
    bare = PrimFunc(func.params, func.body, func.ret_type)
    return IRModule({"main": bare.with_attrs({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})})


def known_as(func: PrimFunc) -> IRModule:
    """The workload under which records know `func`: of a kernel of integers one and the same whatever the scales, zero
    points and limits of the network's numbers are, which stand in it as constants, and which time does not depend on.
    (A curve's polynomial is of a degree that follows from them: that tells two apart.)
    """
    kernel = kernel_of(func)
    if kernel is None or FLOAT32 in kernel.dtypes:
        return workload(func)

    def of_any(number: tirx.FloatImm | tirx.IntImm) -> ir.Expr:
        dtype = str(number.ty.dtype)
        return tirx.const(1, dtype) if isinstance(number, tirx.FloatImm) or dtype in NUMBERS else number

    mapped = tvm_ffi.structural_map(func.body, ((tirx.FloatImm, tirx.IntImm), of_any))
    return workload(PrimFunc(func.params, mapped, func.ret_type))


def replayed(mod: IRModule, trace: list) -> Schedule:
    """`mod` with the decisions of a record's trace, as JSON, applied."""
    sch = Schedule(mod)
    transpose.make_needed(trace)
    interleave.make_needed(trace)
    dots.make_needed(trace)
    Trace.apply_json_to_schedule(trace, sch)
    return sch


def is_workload(line: Any) -> bool:
    """[hash, module]"""
    return isinstance(line, list) and [type(each) for each in line] == [str, str]


def is_record(line: Any, workloads: int) -> bool:
    """[workload, [trace, seconds, target, arguments]], the workload being one of `workloads`."""
    return (
        isinstance(line, list)
        and [type(each) for each in line] == [int, list]
        and 0 <= line[0] < workloads
        and [type(each) for each in line[1]] == [list, list, dict, list]
        and bool(line[1][1])
        and all(type(each) in (int, float) and 0 < each < math.inf for each in line[1][1])
        and is_of_kind(line[1][2], _OfTarget)
    )
