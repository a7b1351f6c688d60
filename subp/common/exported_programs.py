"""Opens files of `torch.export.save` without running what they may hold.

torch's own reader unpickles weights, constants and sample inputs by the full unpickler where the safe one fails,
evaluates sizes that are expressions, calls whatever a node names below `torch`, and makes source code of names.
Here pickles are read as `weights_only`, and everything else must be what torch.export writes: operators, arithmetic,
names. Guards are code as well: ask a program for its `module(check_guards=False)`.
"""

import ast
import builtins
import contextlib
import io
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from subp_contract.errors import UserError

_OPERATOR = re.compile(r"torch\.ops\.(?!_*load)\w+(\.(?!__)\w+)+|torch\._?sym_\w+|_operator\.\w+|math\.\w+|#[\w:.]+")
_NAME = re.compile(r"[A-Za-z_]\w*|")  # of a value of the graph
_PATH = re.compile(r"[^\"'\\()\n;]*")  # of a weight
_PATHS = ("parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "module_fqn", "fqn")
_EXPRESSION = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
)
_SAFE_BUILTINS = {"abs", "max", "min", "pow", "round"}
_lock = threading.Lock()


def load(file: str | Path | bytes, extra_files: dict[str, Any] | None = None) -> ExportedProgram:
    """The program of a file, or of its bytes; `extra_files` as for torch.export.load.

    Raises UserError where the file holds anything that only running it would tell; whatever else torch raises where it
    is damaged.
    """
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    for part in _descriptions(content):
        _check(part)
    with _weights_only():
        try:
            return torch.export.load(io.BytesIO(content), extra_files=extra_files)
        except Exception as error:
            if "WeightsUnpickler" in str(error) or "Weights only load failed" in str(error):
                raise _refusal(
                    "objects of other kinds than tensors, numbers and text, which are code when read"
                ) from error
            raise


def _refusal(what: str) -> UserError:
    return UserError(f"this exported program is not opened: it holds {what}")


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """torch.load reads nothing but tensors, numbers and text, whatever its caller asks for. One thread at a time."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with _lock:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _descriptions(content: bytes) -> Iterator[Any]:
    """The JSON files of an archive. Raises what zipfile and json do where it is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                yield json.loads(archive.read(name))


def _check(part: Any) -> None:
    """Raises UserError unless a part of a description is of the kinds that torch.export writes."""
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            if key == "target" and isinstance(value, str) and "inputs" in part and not _OPERATOR.fullmatch(value):
                raise _refusal(f"a call of {value[:80]!r}, which is no operator")
            if key == "expr_str" and not _is_arithmetic(value):
                raise _refusal(f"a size {str(value)[:80]!r} that is no arithmetic")
            if key in ("name", "graph_name") and isinstance(value, str) and not _NAME.fullmatch(value):
                raise _refusal(f"a value named {value[:80]!r}")
            if key in _PATHS and isinstance(value, str) and not _PATH.fullmatch(value):
                raise _refusal(f"a weight named {value[:80]!r}")
        waiting += part.values()


def _is_arithmetic(text: Any) -> bool:
    """Whether text is an expression of names, numbers and functions, none of Python's own that do anything."""
    try:
        nodes = [*ast.walk(ast.parse(text, mode="eval"))] if isinstance(text, str) and len(text) < 10_000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(nodes) and all(isinstance(node, _EXPRESSION) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return not node.id.startswith("__") and (not hasattr(builtins, node.id) or node.id in _SAFE_BUILTINS)
    if isinstance(node, ast.Call):  # of a function by its name
        return isinstance(node.func, ast.Name)
    return not isinstance(node, ast.Constant) or isinstance(node.value, (int, float, bool)) or _is_symbol(node.value)


def _is_symbol(value: Any) -> bool:
    """What `Symbol('s31')` is given."""
    return isinstance(value, str) and value.isidentifier() and not value.startswith("__")
