"""Tuning records: MetaSchedule's JSON database in a folder, `database_workload.json` beside `database_tuning_record.json`.

A record says: this function, on this target, ran so long with this trace of scheduling decisions. A function is looked up by its structure
(shapes, block size, kept blocks a group, stride, epilogue), not by its weights or its pattern: any network that has the shape finds it.
"""

import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from statistics import median

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched.errors import UserError
from tvm_sched.targets import Target

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


class Records:
    """The records of one target, in `folder`.

    MetaSchedule's JSONDatabase writes the files. It would also read them, but it makes an object of every trace: seconds, where a compilation needs
    a few of some hundred. Here a record stays JSON until it is asked for.
    """

    def __init__(self, folder: Path, target: Target, create: bool = False):
        """Opens the folder; `create` makes an empty one. Raises UserError where there is none, or where a file is damaged."""
        folder = Path(folder)
        if create:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (WORKLOADS, RECORDS):  # a search that had no time has no records, which is no mistake
                (folder / name).touch()
        elif not (folder / RECORDS).is_file() or not (folder / WORKLOADS).is_file():
            raise UserError(f"no tuning records in {folder}; make some with 'subp tune', or compile without")
        self.workloads = [ms.database.Workload.from_json(line) for line in whole_lines(folder / WORKLOADS, is_workload, repair=create)]
        self.records = whole_lines(folder / RECORDS, lambda line: is_record(line, len(self.workloads)), repair=create)
        self.folder, self.target = folder, target
        self.numbers = {structural_hash(entry.mod): number for number, entry in enumerate(self.workloads)}

    def best(self, func: PrimFunc) -> Schedule | None:
        """The fastest schedule recorded for `func`; None if there is none."""
        records = self.measured(func, most=1)
        if not records:
            return None
        sch = Schedule(workload(func))
        records[0].trace.apply_to_schedule(sch, remove_postproc=False)
        return sch

    def kind(self, func: PrimFunc) -> str:
        """What the schedule of `func` comes from, in words."""
        return "record"

    def measured(self, func: PrimFunc, most: int | None = None) -> list:
        """The records of `func` with the target's instructions on as many threads, the fastest first, `most` at the most."""
        number = self.numbers.get(structural_hash(workload(func)))
        mine = [record for of, record in self.records if of == number and self.is_mine(record[2])]
        mine.sort(key=lambda record: median(record[1]))
        return [ms.database.TuningRecord.from_json(record, self.workloads[number]) for record in mine[:most]]

    def is_mine(self, target: dict) -> bool:
        """Whether a record's target is of the same instructions and as many threads."""
        return (target["keys"][0], target["num-cores"]) == (self.target.family, self.target.cores)

    def add(self, func: PrimFunc, schedule: Schedule, seconds: list[float]):
        """Appends a measurement; it is on disk when this returns."""
        entry = self.database.commit_workload(workload(func))
        if self.numbers.setdefault(structural_hash(entry.mod), len(self.workloads)) == len(self.workloads):
            self.workloads.append(entry)
        args = ms.arg_info.ArgInfo.from_entry_func(entry.mod, remove_preproc=True)
        self.database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, entry, seconds, self.target.tvm(), args))
        self.records.append(parsed((self.folder / RECORDS).read_bytes().splitlines()[-1]))

    @cached_property
    def database(self) -> ms.database.JSONDatabase:
        """The writer: made for the first record that is added."""
        return ms.database.JSONDatabase(str(self.folder / WORKLOADS), str(self.folder / RECORDS))


def workload(func: PrimFunc) -> IRModule:
    """`func` as a module of its own, free of the names and attributes that a network gave it."""
    bare = PrimFunc(func.params, func.body, func.ret_type)
    return IRModule({"main": bare.with_attrs({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})})


def whole_lines(path: Path, is_whole: Callable[[object], bool], repair: bool) -> list:
    """The lines of a file (none where it is missing), all of them JSON for which `is_whole` holds. Raises UserError where one is not.

    With `repair` a last line that was cut off, by a kill in the middle of a write, is dropped.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    read = [parsed(line) for line in lines]
    bad = next((i for i, line in enumerate(lines) if not line.endswith(b"\n") or not is_whole(read[i])), None)
    if bad is None:
        return read
    if bad + 1 < len(lines) or lines[-1].endswith(b"\n"):
        raise UserError(f"line {bad + 1} of {path} is damaged; move that folder of records away and tune again")
    if not repair:
        raise UserError(f"the last line of {path} is cut off; 'subp tune' with these records drops it and goes on")
    partial = path.with_suffix(".partial")
    partial.write_bytes(b"".join(lines[:-1]))
    os.replace(partial, path)
    return read[:-1]


def parsed(line: bytes):
    """The line's JSON, None if it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def is_workload(line) -> bool:
    """[hash, module]"""
    return isinstance(line, list) and [type(each) for each in line] == [str, str]


def is_record(line, workloads: int) -> bool:
    """[workload, [trace, seconds, target, arguments]], the workload being one of `workloads`."""
    return (
        isinstance(line, list) and [type(each) for each in line] == [int, list] and 0 <= line[0] < workloads
        and [type(each) for each in line[1]] == [list, list, dict, list]
    )
