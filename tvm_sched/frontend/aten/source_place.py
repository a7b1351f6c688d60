"""Where in the user's source a node of an exported graph comes from, in words."""

import re
from operator import getitem

from torch import fx

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>[^\n]*)\n\s*(?P<code>[^\n]*)')
LIBRARIES = re.compile(r"/(torch|torchvision|onnxscript)/")  # frames in them are not the user's


def operator(node: fx.Node) -> str:
    """ATen's name for what a node computes: 'conv2d' of 'aten.conv2d.default'."""
    return node.target._schema.name.split("::")[-1] if hasattr(node.target, "_schema") else ""


def module_of(node: fx.Node) -> str:
    """The path of the module that a node is computed in; empty for the network itself."""
    path, _ = next(reversed(node.meta.get("nn_module_stack", {}).values()), ("", None))
    return path


def place(node: fx.Node) -> str:
    """'operator `grid_sampler_2d` (module head.0; net.py:12: `F.grid_sample(x, grid)`)'."""
    while node.target is getitem:  # one of several results, of which the operator tells more
        node = node.args[0]  # type: ignore[assignment]
    frames = [each for each in FRAME.finditer(node.meta.get("stack_trace") or "") if each["file"][0] != "<"]
    own = [frame for frame in frames if not LIBRARIES.search(frame["file"])] or frames
    told = [f"module {module_of(node)}"] if module_of(node) else []
    told += [f"{own[-1]['file'].rpartition('/')[2]}:{own[-1]['line']}: `{own[-1]['code'].strip()}`"] if own else []
    named = operator(node) or getattr(node.target, "__name__", str(node.target))
    return f"operator `{named}`" + (f" ({'; '.join(told)})" if told else "")
