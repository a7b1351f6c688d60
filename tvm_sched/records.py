"""Tuning records: MetaSchedule's JSON database in a folder, `database_workload.json` beside `database_tuning_record.json`.

A record says: this function, on this target, ran so long with this trace of scheduling decisions. A function is looked up by its structure
(shapes, block size, kept blocks a group, stride, epilogue), not by its weights or its pattern: any network that has the shape finds it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.tirx import PrimFunc

from tvm_sched.errors import UserError
from tvm_sched.targets import Target

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


class Records:
    """The records of one target, in `folder`."""

    def __init__(self, folder: Path, target: Target, create: bool = False):
        """Opens the folder; `create` makes an empty one. Raises UserError where there is none, or where a file is damaged."""
        folder = Path(folder)
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not (folder / RECORDS).is_file() or not (folder / WORKLOADS).is_file():
            raise UserError(f"no tuning records in {folder}; make some with 'subp tune', or compile without")
        workloads = check(folder / WORKLOADS, is_workload, repair=create)
        check(folder / RECORDS, lambda line: is_record(line, workloads), repair=create)
        self.folder, self.target = folder, target
        self.database = ms.database.JSONDatabase(str(folder / WORKLOADS), str(folder / RECORDS), allow_missing=create)

    def best(self, func: PrimFunc) -> Schedule | None:
        """The fastest schedule recorded for `func`; None if there is none."""
        records = self.measured(func)
        if not records:
            return None
        sch = Schedule(workload(func))
        records[0].trace.apply_to_schedule(sch, remove_postproc=False)
        return sch

    def measured(self, func: PrimFunc) -> list:
        """The records of `func` with the target's instructions on as many threads, the fastest first."""
        mod = workload(func)
        if not self.database.has_workload(mod):
            return []
        records = self.database.get_top_k(self.database.commit_workload(mod), 1 << 30)
        mine = (self.target.family, self.target.cores)
        return [record for record in records if (record.target.keys[0], int(record.target.attrs["num-cores"])) == mine]

    def add(self, func: PrimFunc, schedule: Schedule, seconds: list[float]):
        """Appends a measurement; it is on disk when this returns."""
        entry = self.database.commit_workload(workload(func))
        args = ms.arg_info.ArgInfo.from_entry_func(entry.mod, remove_preproc=True)
        self.database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, entry, seconds, self.target.tvm(), args))


def workload(func: PrimFunc) -> IRModule:
    """`func` as a module of its own, free of the names and attributes that a network gave it."""
    bare = PrimFunc(func.params, func.body, func.ret_type)
    return IRModule({"main": bare.with_attrs({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})})


def check(path: Path, is_whole: Callable[[object], bool], repair: bool) -> int:
    """How many lines a file has, all of them JSON for which `is_whole` holds; TVM crashes on others. Raises UserError where one is not.

    With `repair` a last line that was cut off, by a kill in the middle of a write, is dropped.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    bad = next((number for number, line in enumerate(lines, 1) if not line.endswith(b"\n") or not is_whole(parsed(line))), None)
    if bad is None:
        return len(lines)
    if bad < len(lines) or lines[-1].endswith(b"\n"):
        raise UserError(f"line {bad} of {path} is damaged; move that folder of records away and tune again")
    if not repair:
        raise UserError(f"the last line of {path} is cut off; 'subp tune' with these records drops it and goes on")
    partial = path.with_suffix(".partial")
    partial.write_bytes(b"".join(lines[:-1]))
    os.replace(partial, path)
    return len(lines) - 1


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
