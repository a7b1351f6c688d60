"""Reads a `torch.export` program (`.pt2`) without running code that the file brings.

`torch.export.load` runs such code in five ways: it unpickles without limits what its limited unpickler refuses, loads
compiled libraries, evaluates symbolic sizes as Python, looks operators up as attributes of `torch` (so also
`torch.os.system`), and puts names into the source of functions that it generates. So a file is read once, into memory,
and each of these is looked at before torch's own reader gets the same bytes: what is not known to be harmless is
refused, by its name.
"""

import ast
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2

from subp_contract.errors import UserError, first_line, require
from subp_contract.files import read_file

_MODEL, _INPUTS = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = {"data/weights/model_weights_config.json": "data/weights/", "data/constants/model_constants_config.json": ""}
_MEMBERS = re.compile(
    r"(archive_format|archive_version|version|byteorder|\.data/\w+|extra/[\w.-]+|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)|" + f"{re.escape(_MODEL)}|{re.escape(_INPUTS)})"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchao|torchvision)\.([a-zA-Z]\w*|_[a-zA-Z]\w*|__[a-z]+__)\.[a-zA-Z]\w*"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|scan|while_loop|map_impl)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|index)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.(sym_[a-z]+|_sym_sqrt)"
)
_TOUCHES_FILES = ("torch.ops.aten.from_file.",)
_NAMES = ("name", "as_name", "forward_arg_names", "user_input_name")  # that become variables of generated source
_VARIABLE = re.compile(r"\w*", re.ASCII)
_PLAIN = re.compile(r"[^\"'\\`(){}=;\x00-\x1f\x7f]*")  # nothing that ends a quotation or calls
_FREE = ("as_string", "as_strings", "metadata", "torch_version", "guards_code")  # quoted, shown, or not used
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)
_FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|floor|ceiling|And|Or|Not|Piecewise|ExprCondPair"
    r"|true|false|oo"
    r"|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|Lt|Le|Gt|Ge|FloorDiv|CeilDiv|Where"
    r"|ModularIndexing|PythonMod|CleanDiv|CeilToInt|FloorToInt|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt"
    r"|ToFloat|Identity"
)
_OF_SYMBOLIC = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.Tuple,
)
_DEEPEST = 1000


def read(path: str | Path, content: bytes | None = None) -> tuple[ExportedProgram, dict[str, str]]:
    """(program, its extra files by name) of what `torch.export.save` wrote.

    content:  the file's bytes, where they are at hand; `path` names them in errors
    Raises UserError where the file is damaged, or could run code.
    """
    if content is None:
        content = read_file(path)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs a traceback where it cannot read a file, and raises besides
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(content)
            held = load_pt2(io.BytesIO(content))
        program = held.exported_programs["model"]
    except _Unsafe as error:
        raise UserError(
            f"{path} could run code when it is opened: {first_line(error)[:200]}. Write plain tensors and operators "
            "of PyTorch's with its torch.export.save, or load the network in Python"
        ) from error
    except Exception as error:  # its reader raises whatever the damage leads to
        raise UserError(f"{path} is truncated or not an exported program: write one with torch.export.save") from error
    finally:
        logging.disable(disabled)
    program._guards_code = []  # source, which `module()` would run; what it asserts, the importer asserts too
    return program, {name: _text(text) for name, text in held.extra_files.items()}


class _Unsafe(Exception):
    """What could run code, in words."""


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content


def _check(content: bytes) -> None:
    """Raises _Unsafe where torch's reader would run what the archive brings."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        require(sum(each.file_size for each in archive.infolist()) <= len(content), "its members are compressed")
    with PT2ArchiveReader(io.BytesIO(content)) as archive:
        names = archive.get_file_names()
        for name in names:
            if not _MEMBERS.fullmatch(name):
                raise _Unsafe(f"it holds a member {name!r}")
        model = json.loads(archive.read_bytes(_MODEL))
        _unpickled(archive.read_bytes(_INPUTS), "its sample inputs")
        for config in _CONFIGS:
            for name, payload in json.loads(archive.read_bytes(config))["config"].items():
                if payload["use_pickle"]:
                    _unpickled(archive.read_bytes(f"{config.rpartition('/')[0]}/{payload['path_name']}"), repr(name))
    for key, text in _strings(model):
        _check_string(key, text)


def _unpickled(content: bytes, what: str) -> None:
    """Raises _Unsafe where the limited unpickler refuses a member: torch would take the full one then."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise _Unsafe(f"{what} are pickled, and no plain tensors") from error


def _strings(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(key of the nearest object, text) of all text in JSON but what stands below a free key."""
    require(depth < _DEEPEST, "too deep")
    if isinstance(value, dict):
        for name, item in value.items():
            yield "", name
            if name not in _FREE:
                yield from _strings(item, name, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key, depth + 1)
    elif isinstance(value, str):
        yield key, value


def _check_string(key: str, text: str) -> None:
    """Raises _Unsafe unless the text is harmless where it stands."""
    if key in ("target", "as_operator"):
        harmless = bool(_OPERATORS.fullmatch(text)) and not text.startswith(_TOUCHES_FILES)
        what = "its operator"
    elif key == "expr_str":
        harmless, what = _is_symbolic(text), "its symbolic size"
    elif key in ("in_spec", "out_spec"):
        harmless, what = text == "" or _is_tree(json.loads(text)), "its structure of inputs or outputs"
    elif key in _NAMES:
        harmless, what = bool(_VARIABLE.fullmatch(text)), "its variable"
    else:
        harmless, what = bool(_PLAIN.fullmatch(text)), "its text"
    if not harmless:
        raise _Unsafe(f"{what} {text!r}")


def _is_tree(tree: Any) -> bool:
    """Whether a tree of inputs, `[version, {"type", "context", "children_spec"}]`, has plain containers only."""
    nodes = [tree[1]] if isinstance(tree, list) and len(tree) == 2 else [None]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, dict) or node.get("type") not in _TREES:
            return False
        context = node.get("context")
        if context is not None and "{" in str(context):  # an object in it is an enumeration, looked up in any module
            return False
        nodes += node.get("children_spec") or []
    return True


def _is_symbolic(text: str) -> bool:
    """Whether a symbolic size is made of symbols, numbers and SymPy's functions alone."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    powers = sum(isinstance(node, ast.Name) and node.id in ("Pow", "PowByNatural") for node in nodes)
    return len(nodes) < 10_000 and powers <= 2 and all(_is_symbolic_node(node) for node in nodes)


def _is_symbolic_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return bool(_FUNCTIONS.fullmatch(node.id)) or bool(re.fullmatch(r"[a-z]{1,4}\d+", node.id))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return bool(re.fullmatch(r"[a-z]{1,4}\d+|-?[\d.]+(e[-+]?\d{1,3})?", node.value))
        return isinstance(node.value, (bool, float)) or (isinstance(node.value, int) and abs(node.value) < 2**64)
    return isinstance(node, _OF_SYMBOLIC)
