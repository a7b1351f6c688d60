"""The fastest record of each kernel: what compiling needs of a tuning log, at a hundredth of its size.

MetaSchedule's database (`database.py`) holds every function in full, some 300 KB each. To find a record its structural
hash is enough. A line of `best.jsonl` is one kernel's: {"workload": hash, "target": family, "threads": n, "seconds": s,
"trace": the schedule}.

Where nobody has measured, a line may hold an estimate (`estimation/estimate.py`): "estimated_tile", the numbers of the
kernel's tile, stands for the trace, and `seconds` are cycles by the model at 1 GHz. A measurement replaces it; it never
replaces a measurement.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from subp_contract.errors import UserError
from subp_contract.files import write_atomically
from tvm_sched.kernels import kernel_of
from tvm_sched.records.database import (
    RECORDS,
    WORKLOADS,
    is_record,
    is_workload,
    replayed,
    workload,
)
from tvm_sched.records.json_lines import JsonLines, locked
from tvm_sched.records.recorded import KnownRecords, Recorded
from tvm_sched.targets import Target

BEST = "best.jsonl"
FIELDS = {"workload": str, "target": str, "threads": int, "seconds": float}
SCHEDULES = ({"trace": list}, {"estimated_tile": list})


class BestRecords(KnownRecords):
    """Those of one target, in `folder`. Raises UserError where the file is missing or damaged."""

    def __init__(self, folder: Path, target: Target):
        file = Path(folder) / BEST
        if not file.is_file():
            raise UserError(f"no {BEST} in {folder}; make it with 'subp tune --best {folder}'")
        self.target = target
        self.lines: dict[str, list[dict]] = {}  # of each workload, one a number of threads
        for line in JsonLines(file, is_best).read(repair=False):
            if line["target"] == target.family:
                self.lines.setdefault(line["workload"], []).append(line)

    def known(self, func: PrimFunc) -> list[Recorded]:
        """The record of `func` on each number of threads that there is one for."""
        mod = workload(func)
        return [self.recorded(func, mod, line) for line in self.lines.get(str(structural_hash(mod)), [])]

    def recorded(self, func: PrimFunc, mod: IRModule, line: dict) -> Recorded:
        """What a line says of its kernel."""
        threads, tile = line["threads"], line.get("estimated_tile")
        replay = partial(replayed, mod, line["trace"]) if tile is None else partial(self.tiled, func, mod, tile)
        return Recorded(threads, threads == self.target.cores, tile is not None, line["seconds"], replay)

    def tiled(self, func: PrimFunc, mod: IRModule, numbers: list[int]) -> Schedule:
        """The function scheduled with a tile of these numbers."""
        sch, kernel = Schedule(mod), kernel_of(func)
        assert kernel is not None  # only kernels have lines with tiles
        tile = type(kernel.tiles(kernel.problem(sch), self.target)[0])
        kernel.schedule(sch, tile(*numbers), self.target)
        return sch


def write_best(records: Path, folder: Path) -> int:
    """Writes the fastest of each kernel in the database `records` into `folder`, where lines of other kernels stay;
    returns how many are there.
    """
    with locked(records, write=False):
        workloads = JsonLines(Path(records) / WORKLOADS, is_workload).read(repair=False)
        lines = JsonLines(Path(records) / RECORDS, lambda line: is_record(line, len(workloads))).read(repair=False)
    found: dict[tuple, dict] = {}
    for number, (trace, seconds, target, _) in lines:
        line = {
            "workload": workloads[number][0],
            "target": target["keys"][0],
            "threads": target["num-cores"],
            "seconds": median(seconds),
            "trace": trace,
        }
        if key(line) not in found or line["seconds"] < found[key(line)]["seconds"]:
            found[key(line)] = line
    return write(folder, lambda kept: kept | found)


def write_estimates(folder: Path, lines: list[dict]) -> int:
    """Writes lines with estimated tiles into `folder`, where measured lines stay; returns how many lines are there."""
    return write(
        folder, lambda kept: kept | {key(line): line for line in lines if "trace" not in kept.get(key(line), {})}
    )


def estimated(mod: IRModule, target: Target, seconds: float, tile: list[int]) -> dict:
    """The line of a kernel whose tile was estimated; `mod` as `database.workload` makes it."""
    return {
        "workload": str(structural_hash(mod)),
        "target": target.family,
        "threads": target.cores,
        "seconds": seconds,
        "estimated_tile": tile,
    }


def write(folder: Path, renewed: Callable[[dict], dict]) -> int:
    """Writes what `renewed` makes of the lines in `folder` by key, all or nothing; returns how many there are. Raises
    UserError where they are damaged.
    """
    file = Path(folder) / BEST
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, write=True):
        lines = renewed({key(line): line for line in JsonLines(file, is_best).read(repair=False)})
        text = "".join(json.dumps(lines[each], separators=(",", ":")) + "\n" for each in sorted(lines))
        write_atomically(file, text.encode())
    return len(lines)


def key(line: dict) -> tuple:
    """What a folder holds one line of."""
    return line["target"], line["threads"], line["workload"]


def is_best(line: Any) -> bool:
    """A line of `best.jsonl`."""
    types = {name: type(value) for name, value in line.items()} if isinstance(line, dict) else {}
    return any(types == FIELDS | schedule for schedule in SCHEDULES)
