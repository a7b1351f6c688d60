"""The fastest record of each kernel: what compiling needs of a tuning log, at a hundredth of its size.

MetaSchedule's database (`records.py`) holds every function in full, some 300 KB each. To find a record its structural hash is enough. A line of
`best.jsonl` is one kernel's: {"workload": hash, "target": family, "threads": n, "seconds": s, "trace": the schedule}.
"""

import json
import os
from pathlib import Path
from statistics import median

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched.errors import UserError
from tvm_sched.json_lines import JsonLines, locked
from tvm_sched.records import RECORDS, WORKLOADS, is_record, is_workload, workload
from tvm_sched.targets import Target

BEST = "best.jsonl"
FIELDS = {"workload": str, "target": str, "threads": int, "seconds": float, "trace": list}


class BestRecords:
    """Those of one target, in `folder`. Raises UserError where the file is missing or damaged."""

    def __init__(self, folder: Path, target: Target):
        file = Path(folder) / BEST
        if not file.is_file():
            raise UserError(f"no {BEST} in {folder}; make it with 'subp tune --best {folder}'")
        mine = (target.family, target.cores)
        self.lines = {line["workload"]: line for line in JsonLines(file, is_best).read(repair=False) if (line["target"], line["threads"]) == mine}

    def best(self, func: PrimFunc) -> Schedule | None:
        """The schedule recorded for `func`; None if there is none."""
        mod = workload(func)
        line = self.lines.get(str(structural_hash(mod)))
        if line is None:
            return None
        sch = Schedule(mod)
        Trace.apply_json_to_schedule(line["trace"], sch)
        return sch


def write_best(records: Path, folder: Path) -> int:
    """Writes the fastest of each kernel in the database `records` into `folder`, where lines of other kernels stay; returns how many are there."""
    with locked(records, write=False):
        workloads = JsonLines(Path(records) / WORKLOADS, is_workload).read(repair=False)
        lines = JsonLines(Path(records) / RECORDS, lambda line: is_record(line, len(workloads))).read(repair=False)
    found = {}
    for number, (trace, seconds, target, _) in lines:
        line = {
            "workload": workloads[number][0], "target": target["keys"][0], "threads": target["num-cores"],
            "seconds": median(seconds), "trace": trace,
        }
        if key(line) not in found or line["seconds"] < found[key(line)]["seconds"]:
            found[key(line)] = line
    file = Path(folder) / BEST
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, write=True):
        kept = {key(line): line for line in JsonLines(file, is_best).read(repair=False)} | found
        partial = file.with_suffix(".partial")
        partial.write_text("".join(json.dumps(kept[each], separators=(",", ":")) + "\n" for each in sorted(kept)))
        os.replace(partial, file)
    return len(kept)


def key(line: dict) -> tuple:
    """What a folder holds one line of."""
    return line["target"], line["threads"], line["workload"]


def is_best(line) -> bool:
    """A line of `best.jsonl`."""
    return isinstance(line, dict) and {name: type(value) for name, value in line.items()} == FIELDS
