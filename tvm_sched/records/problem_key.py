"""What a kernel's function computes, whatever its body is: by it records tell a kernel whose code has changed since it
was measured from one that nobody has measured.

Records find a function by its structure, so that one made by another version of its kernel is not found any more, and
would vanish without a word.
"""

import json

import tvm_ffi
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from tvm_sched.kernels.base import KERNEL_MARK, LAYER_MARK

MARKS = (KERNEL_MARK, LAYER_MARK)


def problem_key(func: PrimFunc) -> str:
    """The kernel's block and problem, the shapes of the function's image and output, and the dtypes of all that it
    takes, as JSON; '' for a function without a problem. Its weights' layout, its loops and the operators that are fused
    behind it are left out, as far as they take no further array.
    """
    problems: list[list] = []

    def look(block: SBlock) -> None:
        told = {str(name): plain(value) for name, value in block.annotations.items() if name not in MARKS}
        if told:
            problems.append([str(block.name_hint), sorted(told.items())])

    tvm_ffi.structural_walk(func.body, (SBlock, look), order="post")
    if not problems:
        return ""
    shapes = [[int(extent) for extent in func.params[place].ty.shape] for place in (0, -1)]
    return json.dumps([problems, shapes, [str(param.dtype) for param in func.params]], separators=(",", ":"))


def plain(value: object) -> object:
    """An annotation's value, as TVM or Python holds it, for JSON: numbers and lists of them, else text."""
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, str):  # a name, as of a dot product
        return str(value)
    try:
        return [int(each) for each in value]  # type: ignore[attr-defined]
    except TypeError:
        return str(value)
