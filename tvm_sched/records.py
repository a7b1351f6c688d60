"""Tuning records: MetaSchedule's JSON database in a folder, `database_workload.json` beside `database_tuning_record.json`.

A record says: this function, on this target, ran so long with this trace of scheduling decisions. A function is looked up by its structure
(shapes, block size, kept blocks a group, stride, epilogue), not by its weights or its pattern: any network that has the shape finds it.
"""

import json
import os
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
            raise UserError(f"no tuning records in {folder}; make some with 'subp tune', or leave --records out")
        for name in (WORKLOADS, RECORDS):
            if (folder / name).is_file():
                check(folder / name, repair=create)
        self.folder, self.target = folder, target
        self.database = ms.database.JSONDatabase(str(folder / WORKLOADS), str(folder / RECORDS), allow_missing=create)

    def best(self, func: PrimFunc) -> Schedule | None:
        """The fastest schedule recorded for `func` on as many threads as the target has; None if there is none."""
        for record in self.measured(func):
            if int(record.target.attrs["num-cores"]) == self.target.cores:
                sch = Schedule(workload(func))
                record.trace.apply_to_schedule(sch, remove_postproc=False)
                return sch
        return None

    def measured(self, func: PrimFunc) -> list:
        """All records of `func`, the fastest first."""
        mod = workload(func)
        return list(self.database.get_top_k(self.database.commit_workload(mod), 1 << 30)) if self.database.has_workload(mod) else []

    def add(self, func: PrimFunc, schedule: Schedule, seconds: list[float]):
        """Appends a measurement; it is on disk when this returns."""
        entry = self.database.commit_workload(workload(func))
        args = ms.arg_info.ArgInfo.from_entry_func(entry.mod, remove_preproc=True)
        self.database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, entry, seconds, self.target.tvm(), args))


def workload(func: PrimFunc) -> IRModule:
    """`func` as a module of its own, free of the names and attributes that a network gave it."""
    bare = PrimFunc(func.params, func.body, func.ret_type)
    return IRModule({"main": bare.with_attrs({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})})


def check(path: Path, repair: bool) -> None:
    """Raises UserError if a line is no JSON. With `repair` a last line that was cut off, by a kill in the middle of a write, is dropped."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError:
            if repair and number == len(lines):
                partial = path.with_suffix(".partial")
                partial.write_text("".join(f"{each}\n" for each in lines[:-1]))
                os.replace(partial, path)
            else:
                raise UserError(f"line {number} of {path} is not JSON; delete that line and go on") from None
