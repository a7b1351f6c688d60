"""What a network's layers take in each of the forms that were measured: `forms.jsonl`, beside a folder's records.

A record of MetaSchedule's says how long one fused function takes; which function a layer becomes depends on its form.
So a layer has lines of its own: {"layer": `planning.plan.layer_key`, "target": family, "threads": n, "cpu": model,
"seconds": {form: seconds}}. A form's seconds are those of all that it needs. A later line of the same layer replaces
the forms that it names.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from subp_contract.documents import is_of_kind
from subp_contract.files import write_atomically
from tvm_sched.records.json_lines import JsonLines, locked
from tvm_sched.targets import Target, cpu_model

FORMS = "forms.jsonl"
FAILED = 1e9  # seconds, of a form that does not build or run: it is not tried again


class Forms(msgspec.Struct, forbid_unknown_fields=True):
    """A line."""

    layer: str
    target: str
    threads: Annotated[int, msgspec.Meta(ge=1)]
    cpu: str
    seconds: dict[str, Annotated[float, msgspec.Meta(gt=0, le=FAILED)]]


class FormTimes:
    """Those of one target, in `folder`; none where the file is missing. Raises UserError where it is damaged."""

    def __init__(self, folder: Path, target: Target, cpu: str | None = None, writes: bool = False):
        """cpu: the model that they are asked for, this machine's if None. writes: whether a last line that a kill has
        cut off is dropped; a reader is told of it.
        """
        self.folder, self.target, self.cpu, self.writes = Path(folder), target, cpu or cpu_model(), writes
        self.file = JsonLines(self.folder / FORMS, is_form_line)
        self.times: dict[tuple, dict[str, float]] = {}
        with locked(self.folder, write=writes):
            self.read()

    def read(self) -> None:
        """Takes in what the file has gained since. The folder must be locked."""
        for line in self.file.read(repair=self.writes):
            self.times.setdefault(key(line), {}).update(line["seconds"])

    def of(self, layer: str) -> Mapping[str, float]:
        """Seconds of a layer's forms with the target's number of threads: on this CPU's model, else on any other of the
        target's instructions; times of two models are not mixed.
        """
        return self.on(self.target.cores, layer)

    def on_others(self, layer: str) -> tuple[int, Mapping[str, float]]:
        """(threads, what `of` gives for them), of the nearest number of threads that there is anything for."""
        known = {threads for family, threads, key, _ in self.times if (family, key) == (self.target.family, layer)}
        nearest = min(known, key=lambda threads: (abs(threads - self.target.cores), threads), default=0)
        return nearest, self.on(nearest, layer)

    def on(self, threads: int, layer: str) -> Mapping[str, float]:
        """As `of`, with so many threads."""
        wanted = self.target.family, threads, layer
        if own := self.times.get((*wanted, self.cpu), {}):
            return own
        others = [times for (*where, _), times in self.times.items() if tuple(where) == wanted]
        return max(others, key=len, default={})

    def own(self, layer: str) -> Mapping[str, float]:
        """Those that were measured on this CPU's model."""
        return self.times.get((self.target.family, self.target.cores, layer, self.cpu), {})

    def add(self, layer: str, seconds: Mapping[str, float]) -> None:
        """Appends what a layer takes; it is on disk when this returns."""
        where = {"target": self.target.family, "threads": self.target.cores, "cpu": self.cpu}
        line = {"layer": layer, **where, "seconds": dict(seconds)}
        with locked(self.folder, write=True):
            self.read()
            self.times.setdefault(key(line), {}).update(self.file.append(line)["seconds"])


def write_forms(sources: Iterable[Path], folder: Path) -> None:
    """Writes into `folder`, which must be locked, one line a layer of what it holds and the `sources` hold: each form's
    least seconds on each CPU's model.
    """
    lines: dict[tuple, dict] = {}
    for source in (folder, *sources):
        newest: dict[tuple, dict] = {}
        for line in JsonLines(Path(source) / FORMS, is_form_line).read(repair=False):
            newest.setdefault(key(line), line)["seconds"].update(line["seconds"])
        for place, line in newest.items():
            known = lines.setdefault(place, line)["seconds"]
            known.update({form: min(time, known.get(form, time)) for form, time in line["seconds"].items()})
    if lines:
        text = "".join(json.dumps(lines[each], separators=(",", ":")) + "\n" for each in sorted(lines))
        write_atomically(Path(folder) / FORMS, text.encode())


def key(line: dict) -> tuple:
    """What a file holds the forms of."""
    return line["target"], line["threads"], line["layer"], line["cpu"]


def is_form_line(line: Any) -> bool:
    """A line of `forms.jsonl`."""
    return is_of_kind(line, Forms)
