"""What a recorded trace may do. A trace is a program for TVM's scheduler, and comes from a file: it could name a pragma
that puts assembler into the library, change dtypes, or take minutes to unroll. So it may have the instructions and
annotations that the schedules of `kernels` use, with numbers of a sensible size, and nothing else.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer import dots
from tvm_sched.kernels.integer.interleave import INTERLEAVE
from tvm_sched.kernels.integer.planar.planes import COPY
from tvm_sched.kernels.rewrites import interleave, transpose
from tvm_sched.kernels.rewrites.loops import BLOCK_STEPS, FIRST_PRODUCT, PARTITION, PREFETCH, ROLLED

INSTRUCTIONS = (
    {"AddUnitLoop", "Annotate", "AnnotateBufferAccess", "CacheRead", "CacheWrite", "ComputeAt", "ComputeInline"}
    | {"DecomposeReduction", "EnterPostproc", "Fuse", "GetChildBlocks", "GetConsumers", "GetLoops", "GetProducers"}
    | {"GetSBlock", "Merge", "PadEinsum", "Parallel", "RFactor", "Reorder", "ReverseComputeAt", "ReverseComputeInline"}
    | {"SetScope", "Split", "StorageAlign", "Tensorize", "TransformBlockLayout", "TransformLayout", "Unroll"}
    | {"Vectorize"}
)
ANNOTATIONS = frozenset((PARTITION, PREFETCH, ROLLED, BLOCK_STEPS, FIRST_PRODUCT, INTERLEAVE, COPY))
INTRINSICS = (transpose.NAME, interleave.NAME, dots.NAME)
IN_INDICES = re.compile(
    r"None|int|bool|ffi\.\w+|ir\.(Var|IntImm|PrimType|Range)|tirx\.(IndexMap|Var|IterVar)"
    r"|prim\.(Add|Sub|Mul|FloorDiv|FloorMod|Min|Max|Cast)"
)
REST = "None"  # the part of a split loop that is what the others leave
LARGEST = 2**20  # number in a trace
UNROLLED = 2**14  # steps that become code without a loop, times lanes
WIDEST = 256  # side of an intrinsic
LONGEST = 10_000  # instructions


def fault(trace: Any) -> str:
    """What keeps a trace, as `Trace.as_json()` has it, from being used, in words; '' where nothing does."""
    if not (isinstance(trace, list) and len(trace) == 2 and isinstance(trace[0], list) and len(trace[0]) <= LONGEST):
        return "its trace is no list of instructions and decisions"
    for instruction in trace[0]:
        if not (isinstance(instruction, list) and len(instruction) == 4 and isinstance(instruction[0], str)):
            return "its trace has something that is no instruction"
        if why := fault_of(*instruction):
            return why
    if large := next((number for number in numbers(trace) if abs(number) > LARGEST), None):
        return f"its trace has the number {large}"
    # Of as many steps as the loop has, or a few more. Steps beyond it write where nothing is.
    splits = [inputs[1:] for kind, inputs, *_ in trace[0] if kind == "Split"]
    return (
        "" if all(parts.count(REST) == 1 for parts in splits) else "its trace splits a loop into parts of given sizes"
    )


def fault_of(kind: str, inputs: Any, attributes: Any, outputs: Any) -> str:
    """The same of one instruction."""
    if not all(isinstance(each, list) for each in (inputs, attributes, outputs)):
        return f"{kind[:40]} in its trace has no lists"
    if kind not in INSTRUCTIONS:
        return f"its trace has the instruction {kind[:40]!r}, which no schedule of ours uses"
    name = str(attributes[0])[:60] if attributes else ""
    if kind == "Annotate" and (name not in ANNOTATIONS or any(isinstance(value, str) for value in inputs[1:])):
        return f"its trace has the annotation {name!r}, which no schedule of ours uses"
    known = any(pattern.fullmatch(name) for pattern in INTRINSICS)
    if kind == "Tensorize" and not (known and all(int(size) <= WIDEST for size in re.findall(r"\d+", name))):
        return f"its trace has the intrinsic {name!r}, which is none of ours"
    for text in texts([inputs, attributes]):
        if text.lstrip().startswith("{") and (strange := in_indices(text)):
            return f"an index map in its trace has {strange[:40]!r}"
    return ""


def in_indices(text: str) -> str:
    """The first kind of node of an index map, as TVM writes it, that is no plain arithmetic; '' if there is none."""
    try:
        kinds = [str(node["type"]) for node in json.loads(text)["nodes"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "what cannot be read"
    return next((kind for kind in kinds if not IN_INDICES.fullmatch(kind)), "")


def numbers(value: Any) -> Iterator[float]:
    """Those of nested lists."""
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, (int, float)):
        yield value


def texts(value: Any) -> Iterator[str]:
    """Those of nested lists."""
    if isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def too_large(func: PrimFunc) -> str:
    """Whether a scheduled function has more code without loops than a compiler should get, in words; else ''."""

    def steps(stmt: tirx.Stmt, around: int) -> int:
        """The most that a loop in `stmt` adds to what the loops around it make."""
        found = [around]

        def visit(loop: tirx.For) -> tvm_ffi.WalkResult:
            flat = loop.kind in (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED) and isinstance(
                loop.extent, tirx.IntImm
            )
            found.append(steps(loop.body, around * int(loop.extent) if flat else around))
            return tvm_ffi.WalkResult.SKIP

        tvm_ffi.structural_walk(stmt, (tirx.For, visit), order="pre")
        return max(found)

    most = steps(func.body, 1)
    return f"its trace unrolls {most} steps" if most > UNROLLED else ""


def version() -> str:
    """TVM's, as records name it: '0.27.0'."""
    return release(tvm.__version__)


def release(text: str) -> str:
    """'0.27.0' of '0.27.0.post1'"""
    found = re.match(r"\d+(\.\d+){0,2}", text)
    return found[0] if found else text
