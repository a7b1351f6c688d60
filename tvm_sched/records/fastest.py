"""The fastest record of each kernel: what compiling needs of a tuning log, at a hundredth of its size.

MetaSchedule's database (`database.py`) holds every function in full, some 300 KB each. To find a record its structural
hash is enough. A line of `best.jsonl` is one kernel's: {"workload": hash, "target": family, "threads": n, "seconds": s,
"cpu": the CPU's model, "tvm": the version of TVM, "problem": `problem_key`, "trace": the schedule}. There is one for
each model that a kernel was measured on; old lines name neither it nor the version, nor the problem.

Where nobody has measured, a line may hold an estimate (`estimation/estimate.py`): "estimated_tile", the numbers of the
kernel's tile, stands for the trace, and `seconds` are cycles by the model at 1 GHz. A measurement replaces it; it never
replaces a measurement.
"""

import json
from collections.abc import Callable, Sequence, Set
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from subp_contract.documents import is_of_kind
from subp_contract.errors import UserError
from subp_contract.files import write_atomically
from tvm_sched.kernels import kernel_of, seen_by
from tvm_sched.records.database import (
    CPU,
    RECORDS,
    WORKLOADS,
    is_record,
    is_workload,
    known_as,
    other_version,
    read_workload,
    replayed,
    version_of,
    workload,
)
from tvm_sched.records.form_times import FormTimes, write_forms
from tvm_sched.records.json_lines import JsonLines, locked
from tvm_sched.records.problem_key import problem_key
from tvm_sched.records.recorded import KnownRecords, Recorded, distance, settled
from tvm_sched.targets import Target, cpu_model

BEST = "best.jsonl"

Count = Annotated[int, msgspec.Meta(ge=1)]


class Best(msgspec.Struct, forbid_unknown_fields=True):
    """A line of `best.jsonl`."""

    workload: str
    target: str
    threads: Count
    seconds: Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
    cpu: str = ""
    tvm: str = ""
    problem: str = ""
    trace: list | None = None
    estimated_tile: list[Any] | None = None


class BestRecords(KnownRecords):
    """Those of one target, in `folder`. Raises UserError where the file is missing or damaged."""

    renewed_by = "--records LOG --best"

    def __init__(self, folder: Path, target: Target):
        file = Path(folder) / BEST
        if not file.is_file():
            raise UserError(f"no {BEST} in {folder}; make it with 'subp tune --best {folder}'")
        super().__init__(folder, target, FormTimes(folder, target))
        self.cpu = cpu_model()
        self.lines: dict[str, list[dict]] = {}  # of each workload, one a number of threads and model of CPU
        for number, line in enumerate(JsonLines(file, is_best).read(repair=False), 1):
            if line["target"] == target.family:
                line["where"] = f"line {number} of {file}"
                self.lines.setdefault(line["workload"], []).append(line)

    def known(self, func: PrimFunc, onto: PrimFunc | None = None) -> Recorded | None:
        """As the base's."""
        lines = self.lines.get(str(structural_hash(known_as(func))), [])
        for line in sorted((each for each in lines if each["threads"] == self.target.cores), key=self.preference):
            if not other_version(line.get("tvm", ""), line["where"]):
                return self.recorded(func if onto is None else onto, line)
        return None

    def has(self, func: PrimFunc) -> bool:
        """As the base's."""
        return str(structural_hash(known_as(func))) in self.lines

    @cached_property
    def problems(self) -> Set[str]:
        """As the base's."""
        return {line["problem"] for lines in self.lines.values() for line in lines if line.get("problem")}

    def preference(self, line: dict) -> tuple:
        """What was measured before what was estimated, this CPU's model before others', the fastest of those."""
        return "trace" not in line, distance(cpu_of(line), self.cpu), line["seconds"]

    def recorded(self, func: PrimFunc, line: dict) -> Recorded:
        """What a line says, for `func`."""
        mod, tile = workload(func), line.get("estimated_tile")
        replay = partial(replayed, mod, line["trace"]) if tile is None else partial(self.tiled, func, mod, tile)
        cpu = "" if cpu_of(line) == self.cpu else cpu_of(line)
        return Recorded(tile is not None, line["seconds"], replay, cpu, where=line["where"], trace=line.get("trace"))

    def tiled(self, func: PrimFunc, mod: IRModule, numbers: list[int]) -> Schedule:
        """The function scheduled with a tile of these numbers."""
        sch, kernel, target = Schedule(mod), kernel_of(func), seen_by(func, self.target)
        assert kernel is not None  # only kernels have lines with tiles
        tile = type(kernel.tiles(kernel.problem(sch), target)[0])
        kernel.schedule(sch, tile(*numbers), target)
        return sch


def write_best(records: Path, folder: Path) -> int:
    """Writes the best of each kernel in the database `records`, see `settled`, and its layers' forms into `folder`,
    where lines of other kernels and other CPUs stay; returns how many are there.
    """
    found = best_of(records)  # before the folder is locked, which may be the same
    return write(folder, lambda kept: kept | found, [records])


def merge(folders: Sequence[Path], folder: Path) -> int:
    """Writes what several folders hold, tuning logs or fastest records, into `folder`, which takes part: of a kernel,
    an instruction set, a number of threads and a CPU's model the fastest that was measured, and what is merely
    estimated where nothing was. Returns how many lines are there. Raises UserError for a folder without records.
    """
    found: dict[tuple, dict] = {}
    for each in folders:
        if not any((Path(each) / name).is_file() for name in (RECORDS, BEST)):
            raise UserError(f"no tuning records in {each}: neither {RECORDS} nor {BEST}")
        lines = best_of(each) if (Path(each) / RECORDS).is_file() else {}
        found = faster(found, faster(lines, lines_in(each)))
    return write(folder, lambda kept: faster(found, kept), folders)


def faster(some: dict[tuple, dict], others: dict[tuple, dict]) -> dict[tuple, dict]:
    """All lines, of two with a key the better."""
    rank = lambda line: ("trace" not in line, line["seconds"])  # noqa: E731
    return {
        each: min((lines[each] for lines in (some, others) if each in lines), key=rank) for each in some.keys() | others
    }


def lines_in(folder: Path) -> dict[tuple, dict]:
    """The lines of a folder's file by key; none where it is missing."""
    return {key(line): line for line in JsonLines(Path(folder) / BEST, is_best).read(repair=False)}


def best_of(records: Path) -> dict[tuple, dict]:
    """Lines of the best of each kernel in a database, by key."""
    with locked(records, write=False):
        workloads = JsonLines(Path(records) / WORKLOADS, is_workload).read(repair=False)
        lines = JsonLines(Path(records) / RECORDS, lambda line: is_record(line, len(workloads))).read(repair=False)
    looks: dict[tuple, list] = {}
    problems = {line[0]: "" for line in workloads}  # by the workload's hash
    for number in {number for number, _ in lines}:
        entry = read_workload(workloads[number], number + 1, Path(records) / WORKLOADS)
        problems[workloads[number][0]] = problem_key(entry.mod["main"])
    versions: dict[tuple, str] = {}  # of TVM, of each place's traces
    for number, (trace, seconds, target, _) in lines:
        place = target["keys"][0], target["num-cores"], workloads[number][0], target.get(CPU, "")
        looks.setdefault(place, []).append((json.dumps(trace), median(seconds)))
        versions[place, looks[place][-1][0]] = version_of([trace, seconds, target])
    best = {place: settled(each) for place, each in looks.items()}
    return {
        place: {
            "workload": place[2],
            "target": place[0],
            "threads": place[1],
            "cpu": place[3],
            "seconds": seconds,
            "trace": json.loads(trace),
        }
        | {name: told for name, told in (("tvm", versions[place, trace]), ("problem", problems[place[2]])) if told}
        for place, (trace, seconds) in best.items()
    }


def write_estimates(folder: Path, lines: list[dict]) -> int:
    """Writes lines with estimated tiles into `folder`, where measured lines stay; returns how many lines are there."""
    return write(
        folder, lambda kept: kept | {key(line): line for line in lines if "trace" not in kept.get(key(line), {})}
    )


def estimated(mod: IRModule, target: Target, seconds: float, tile: list[int]) -> dict:
    """The line of a kernel whose tile was estimated; `mod` as `database.known_as` makes it."""
    return {
        "workload": str(structural_hash(mod)),
        "target": target.family,
        "threads": target.cores,
        "seconds": seconds,
        "estimated_tile": tile,
    }


def write(folder: Path, renewed: Callable[[dict], dict], forms_of: Sequence[Path] = ()) -> int:
    """Writes what `renewed` makes of the lines in `folder` by key, all or nothing, and the forms that the folders
    `forms_of` know of; returns how many lines there are. Raises UserError where any are damaged.
    """
    file = Path(folder) / BEST
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, write=True):
        lines = without_needless(renewed(lines_in(folder)))
        text = "".join(json.dumps(compact(lines[each]), separators=(",", ":")) + "\n" for each in sorted(lines))
        write_atomically(file, text.encode())
        write_forms(forms_of, folder)
    return len(lines)


def compact(value: Any) -> Any:
    """A line, or a part of it, with index maps, which TVM writes as JSON with indents, in as little room as may be."""
    if isinstance(value, dict):
        return {name: compact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [compact(each) for each in value]
    indented = isinstance(value, str) and value.startswith("{\n")
    return json.dumps(json.loads(value), separators=(",", ":")) if indented else value


def without_needless(lines: dict[tuple, dict]) -> dict[tuple, dict]:
    """The lines but for estimates of kernels that were measured, on whichever CPU."""
    measured = {place[:3] for place, line in lines.items() if "trace" in line}
    return {place: line for place, line in lines.items() if "trace" in line or place[:3] not in measured}


def key(line: dict) -> tuple:
    """What a folder holds one line of."""
    return line["target"], line["threads"], line["workload"], cpu_of(line)


def cpu_of(line: dict) -> str:
    """The model of the CPU that a line was made on; '' where it does not say."""
    return line.get("cpu", "")


def is_best(line: Any) -> bool:
    """A line of `best.jsonl`."""
    return is_of_kind(line, Best) and ("trace" in line) != ("estimated_tile" in line)
