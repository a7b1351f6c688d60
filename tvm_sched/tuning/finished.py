"""Searches that had nothing left to do: `finished.jsonl`, beside a folder's records, so that the same search again
answers at once, before the network is exported and planned.

    {"key": digest of all that a search depends on, "bytes": {file: its size then}, "tasks": [what was found]}

The key is of the network (its modules' classes with their sources, settings and weights, or an exported program's code
and weights), its inputs, the options, the CPU, TVM's version, and this package's sources: whatever changes one of them
searches again. So does a file of records that is shorter than it was.
"""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import tvm
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

import tvm_sched
from subp_contract.documents import is_of_kind
from tvm_sched.records.database import RECORDS, WORKLOADS
from tvm_sched.records.form_times import FORMS
from tvm_sched.records.json_lines import JsonLines, locked
from tvm_sched.tuning.tiles import Named, TaskResult

FINISHED = "finished.jsonl"
PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)  # kinds of settings
REGISTRIES = frozenset(vars(torch.nn.Module())) - {"training"}  # of weights, submodules and hooks

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    """`tiles.Named`."""

    name: str
    calls: _Count
    layers: list[str]
    shape: str
    kernel: str


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    """`tiles.TaskResult`."""

    task: _Named
    measured: _Count
    default_ms: float
    best_ms: float


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line."""

    key: str
    bytes: dict[str, _Count]
    tasks: list[_Result]


def key_of(network: torch.nn.Module | ExportedProgram, inputs: Any, options: Mapping[str, Any]) -> str | None:
    """The digest of a search on `network` with the example `inputs` (any nest of tensors); None where the network's
    sources cannot be had, as of a class that was typed in, or a module holds what cannot be told from others of its
    kind. options: of the search, by name.
    """
    digest = hashlib.sha256()
    for part in (*_of_network(network), *_of_inputs(inputs), repr(sorted(options.items())), _of_package()):
        if part is None:
            return None
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def read(folder: Path, key: str | None) -> list[TaskResult] | None:
    """What the search of that key found in the `folder`; None where it did not finish there, or records were lost."""
    if key is None or not (folder / FINISHED).is_file():
        return None
    with locked(folder, write=True):
        lines = JsonLines(folder / FINISHED, _is_line).read(repair=True)
        held = next((line for line in reversed(lines) if line["key"] == key), None)
        if held is None or any(_size(folder / name) < size for name, size in held["bytes"].items()):
            return None
    return [TaskResult(_named(result.pop("task")), **result) for result in held["tasks"]]


def write(folder: Path, key: str | None, tasks: Sequence[TaskResult]) -> None:
    """Notes that the search of that key has nothing left to do."""
    if key is None:
        return
    sizes = {name: _size(folder / name) for name in (WORKLOADS, RECORDS, FORMS)}
    line = {"key": key, "bytes": sizes, "tasks": [_told(each) for each in tasks]}
    with locked(folder, write=True):
        file = JsonLines(folder / FINISHED, _is_line)
        file.read(repair=True)
        file.append(line)


def _told(result: TaskResult) -> dict:
    """As `_Result`."""
    task = {name: getattr(result.task, name) for name in Named.__match_args__}
    return {"task": task, "measured": result.measured, "default_ms": result.default_ms, "best_ms": result.best_ms}


def _named(task: dict) -> Named:
    return Named(**task | {"layers": tuple(task["layers"])})


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_line(line: Any) -> bool:
    return is_of_kind(line, _Line)


def _of_network(network: torch.nn.Module | ExportedProgram) -> Iterator[str | bytes | None]:
    if isinstance(network, ExportedProgram):
        yield str(network.graph)
        yield from _of_inputs([dict(network.state_dict), dict(network.constants)])
        return
    for name, module in network.named_modules():
        yield f"{name} {type(module).__qualname__} {module.extra_repr()}"
        if isinstance(module, torch.fx.GraphModule):
            yield f"{module.training} {module.code}"
        else:
            yield from _of_settings(module)
            yield _source(type(module))
    yield from _of_inputs(dict(network.state_dict()) | dict(network.named_buffers()))


def _of_settings(module: torch.nn.Module) -> Iterator[str | bytes | None]:
    """A module's own attributes; None for one that cannot be told from others of its kind."""
    own = {name: value for name, value in vars(module).items() if name not in REGISTRIES}
    for path, value in pytree.tree_leaves_with_path(own):
        if isinstance(value, torch.Tensor):
            yield from _of_inputs({str(path): value})
        elif isinstance(value, PLAIN):
            yield f"{path} {value!r}"
        else:  # a function or class, by its name
            name = getattr(value, "__qualname__", "<nothing>")
            yield None if "<" in name else f"{path} {value.__module__}.{name}"


@cache
def _source(kind: type) -> str | None:
    """Of the module that a class stands in; None where there is none, as of a class that was typed in."""
    try:
        return inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError, KeyError):
        return None


def _of_inputs(inputs: Any) -> Iterator[str | bytes]:
    """Dtypes, shapes and numbers of all tensors, others as they are printed."""
    for path, value in pytree.tree_leaves_with_path(inputs):
        yield f"{path}"
        if isinstance(value, torch.Tensor):
            held = value.detach().cpu().contiguous()
            yield f"{held.dtype} {list(held.shape)}"
            yield held.reshape(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b""
        else:
            yield repr(value)


@cache
def _of_package() -> str:
    """A digest of this package's sources, and TVM's version."""
    digest = hashlib.sha256(tvm.__version__.encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterable[Path]:
    return sorted(Path(tvm_sched.__file__).parent.rglob("*.py"))
