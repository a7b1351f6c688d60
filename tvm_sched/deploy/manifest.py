"""What a compiled network tells of itself, without being run: JSON, which its file holds.

`format`, `target`, `arch`, `cpu`, `cpu_flags`, `threads`, `dense`, `precision` (the word that was asked for, or that
'auto' stood for), `decision` (why it did; else empty), `weights` (the dtype in which layers may store theirs; each says
in which it does); `inputs` and `outputs` (name, shape, dtype; of
whole numbers the `range` of the example's), `input_structure`, `output_structure` and `parameters`, see
`tvm_sched.signature`; `main` (the function that computes the network; one of that name and TIMED also tells times),
`steps` (the functions that it calls, a list for each of its uninterrupted runs of calls), `prepare` (the one that
computes what 'main' takes beside its inputs, or null) and `prepared` (which of its results these are, or null for all),
`parts` (equal parts of the batch, which 'main' takes one at a time), `layers` (the rows of `explain`), `calls` (of
'main': how threads share each, rows of `planning.sharing.SharedCall`), `memory` (bytes of `workspace`, `weights` and
what is `prepared` of them), `versions`, `check` (a `seed` for inputs and the first numbers of each of PyTorch's
`outputs` for them, and where more than their limit the errors that these are `allowed`; whether the network was
`verified`, with what `error` at what `tolerance`, and `notes`), `shapes`
(of a network for several what differs in the further ones, the members of OF_SHAPE), and what the user adds
(`classes`, `preprocessing`).
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from subp_contract.documents import of_kind, parse_json, shown
from subp_contract.errors import UserError, first_line
from tvm_sched.deploy import toolchain
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.signature import MEMBERS as SIGNATURE
from tvm_sched.signature import Signature, TensorSpec
from tvm_sched.targets import Target, cpu_flags
from tvm_sched.targets.sizes import FLOAT32

if TYPE_CHECKING:
    from tvm_sched.codegen import Memory
    from tvm_sched.frontend.torch_export import Imported
    from tvm_sched.passes.graph.call_directly import Steps
    from tvm_sched.passes.graph.join_shapes import Joined
    from tvm_sched.pipeline import Built

FORMAT = 6
Count = Annotated[int, msgspec.Meta(ge=1)]


class Tensor(msgspec.Struct):
    """An input or output."""

    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, lt=2**40)]]
    dtype: str


class Preprocessing(msgspec.Struct):
    """What training did to images, where the user's metadata tell."""

    size: Annotated[int, msgspec.Meta(ge=1, le=2**14)]
    resize: Annotated[int, msgspec.Meta(ge=1, le=2**14)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    mean: list[float]
    std: list[Annotated[float, msgspec.Meta(gt=0)]]


class Manifest(msgspec.Struct):
    """The members that are read, with their kinds."""

    target: str
    arch: str
    cpu_flags: list[str]
    threads: Count
    dense: bool
    precision: str
    weights: str
    main: str
    steps: list[list[str]]
    prepare: str | None
    prepared: list[int] | None
    shapes: list[dict]
    parts: Count
    inputs: list[Tensor]
    outputs: list[Tensor]
    input_structure: dict
    output_structure: dict
    parameters: list[str]
    layers: list[LayerChoice]
    calls: list[tuple[str, list[tuple[Count, int]]]]  # function, and (extent, times) of each of its loops
    memory: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    versions: dict[str, str]
    check: dict
    classes: list[str] | None = None
    preprocessing: Preprocessing | None = None


TOLERANCE = 1e-3  # largest absolute error of outputs of unit scale
# Largest error over the largest output, of a network that stores weights in such a type, or computes in it: bfloat16's
# roundings are eight times as coarse as float16's.
RELATIVE = {"float16": 2e-2, "bfloat16": 2e-2}
COMPUTING = {"float16": 2e-2, "bfloat16": 16e-2}
ROUNDING = {"float16": 2**-10, "bfloat16": 2**-7}  # between neighbours at 1, where TOLERANCE is no more than a few
OF_SHAPE = ("main", "steps", "prepared", "parts", *SIGNATURE, "layers", "calls", "check")
CHECK_OUTPUTS = 1000  # numbers of each expected output that the manifest holds, at the most


def make_manifest(
    target: Target,
    imported: "Imported",
    built: "Built",
    *,
    check: dict,
    dense: bool,
    precision: str = FLOAT32,
    weights: str = FLOAT32,
    decision: str = "",
) -> dict:
    """The manifest of a network just compiled."""
    import torch
    import tvm

    return {
        "format": FORMAT,
        "target": target.name,
        "arch": target.arch,
        "cpu": target.cpu,
        "cpu_flags": flags_of(target, {choice.weights_dtype for choice in built.lowered.choices}),
        "threads": target.cores,
        "dense": dense,
        "precision": precision,
        "weights": weights,
        "decision": decision,
        "prepare": built.lowered.prepare,
        "main": "main",
        "steps": built.steps["main"],
        "prepared": None,
        "shapes": [],
        "parts": imported.parts,
        **imported.signature.to_json(),
        "layers": [asdict(choice) for choice in built.lowered.choices],
        "calls": [call.to_json() for call in built.lowered.calls],
        "remarks": built.lowered.remarks,
        "memory": asdict(built.memory),
        "versions": {"tvm": tvm.__version__, "torch": torch.__version__},
        "check": check,
    }


def flags_of(target: Target, weights: set[str]) -> list[str]:
    """What a CPU must have for a target's code whose layers store their weights in these dtypes."""
    widening = {"f16c"} if target.arch == "x86_64" and "float16" in weights else set()
    return [*target.cpu_flags, *sorted(widening - set(target.cpu_flags))]


def of_shapes(manifests: Sequence[dict], joined: "Joined", memory: "Memory", steps: "Steps") -> dict:
    """The manifest of a network for several shapes, of one for each, what became of these, and the steps of each."""
    each = []
    for number, manifest in enumerate(manifests):
        names = joined.names[number]
        layers = [row | {"function": names.get(row["function"], row["function"])} for row in manifest["layers"]]
        calls = [[names.get(function, function), loops] for function, loops in manifest["calls"]]
        own = {"main": (main := joined.mains[number]), "steps": steps[main], "prepared": joined.prepared[number]}
        own |= {"layers": layers, "calls": calls}
        each.append({key: manifest[key] for key in OF_SHAPE} | own)
    prepare = next((manifest["prepare"] for manifest in manifests if manifest["prepare"]), None)
    return manifests[0] | each[0] | {"prepare": prepare, "memory": asdict(memory), "shapes": each[1:]}


def each_shape(manifest: dict) -> list[dict]:
    """The manifests of a network's shapes, as if each were the only one."""
    return [manifest, *(manifest | own for own in manifest["shapes"])]


def read_manifest(path: str | Path) -> tuple[dict, str]:
    """(manifest, architecture) of a compiled network, which is not run. Raises UserError if there is none."""
    raw, arch = toolchain.read_manifest(Path(path))
    manifest = parse_json(raw, dict[str, Any], f"the manifest in {path}")
    if manifest.get("format") != FORMAT:
        told = shown(str(manifest.get("format")), 20)
        raise UserError(
            f"{path} has a manifest of format {told}, this version reads {FORMAT}; compile the network again"
        )
    for each in each_shape(of_kind(manifest, Manifest, f"the manifest in {path}")):
        of_kind(each, Manifest, f"the manifest in {path}")
    try:
        for each in each_shape(manifest):
            Signature.from_json(each)
            limits(each)
    except Exception as error:  # of any kind: members of members
        raise UserError(
            f"the manifest in {path} is damaged ({shown(first_line(error))}); compile the network again"
        ) from None
    return manifest, arch


def require_this_machine(manifest: dict, what: str) -> None:
    """Raises UserError unless this machine's CPU runs the manifest's code."""
    if manifest["arch"] != platform.machine():
        raise UserError(
            f"{what} is compiled for {manifest['arch']} ({manifest['target']}), and this machine is "
            f"{platform.machine()}"
        )
    if missing := sorted(set(manifest["cpu_flags"]) - cpu_flags()):
        raise UserError(
            f"{what} is compiled for {manifest['target']}, and this machine's CPU lacks {', '.join(missing)}"
        )


def first_numbers(output: np.ndarray) -> np.ndarray:
    """Those of an output that the check compares, in a type that NumPy and JSON know."""
    first = output.reshape(-1)[:CHECK_OUTPUTS]
    return first.astype("float32") if output.dtype.name in ROUNDING else first


def limits(manifest: dict) -> list[float]:
    """The error that each output may have for the check's inputs."""
    relative = relative_in(manifest)
    known = [error_limit(numbers, spec.dtype, relative) for spec, numbers in expected_outputs(manifest)]
    given = manifest["check"].get("allowed", [None] * len(known))
    return [limit if more is None else max(limit, more) for limit, more in zip(known, given, strict=True)]


def expected_outputs(manifest: dict) -> list[tuple[TensorSpec, np.ndarray]]:
    """Each output with the first numbers of PyTorch's for the check; those of half precision as float32."""
    outputs = Signature.from_json(manifest).outputs
    types = ["float32" if spec.dtype in ROUNDING else spec.dtype for spec in outputs]
    numbers = manifest["check"]["outputs"]
    return [(spec, np.array(*each)) for spec, *each in zip(outputs, numbers, types, strict=True)]


def allowed_by_rounding(manifest: dict) -> float:
    """By how much the first output of a quantised network may be further from PyTorch's than others may."""
    _, numbers = expected_outputs(manifest)[0]
    return max(limits(manifest)[0] - error_limit(numbers, relative=relative_in(manifest)), 0.0)


def largest_error(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; NaN where one of two numbers is none, and 0 between equal infinities or NaN."""
    wide = [each.astype("float64") for each in (output, expected)]
    same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0, np.abs(wide[0] - wide[1])).max(initial=0))


def relative_of(precision: str, layers: Iterable[LayerChoice]) -> float:
    """The share of the largest output that errors may be of a network of that precision with these layers; 0 where no
    number is narrower than its own.
    """
    return relative_to(precision, {layer.weights_dtype for layer in layers if layer.narrow_weights})


def relative_to(precision: str, stored: Iterable[str]) -> float:
    """The same of one some of whose layers store weights in these dtypes."""
    return max([COMPUTING.get(precision, 0.0), *(RELATIVE.get(each, 0.0) for each in stored)])


def relative_in(manifest: dict) -> float:
    """The same of the network that a manifest tells of."""
    return relative_of(manifest["precision"], [LayerChoice(**row) for row in manifest["layers"]])


def error_limit(expected: np.ndarray, dtype: str | None = None, relative: float = 0.0) -> float:
    """The largest absolute error of outputs that shall be `expected`, in that dtype (by default theirs): TOLERANCE, or
    of half precision four roundings, times the largest of them where that is more than 1; nothing for whole numbers and
    booleans. Of a network that was narrowed its share `relative` of the largest output, if that is more.
    """
    name = dtype or expected.dtype.name
    if "float" not in name:
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)].astype("float64"))
    largest = float(finite.max(initial=0))
    plain = max(TOLERANCE, 4 * ROUNDING.get(name, 0)) * max(1.0, largest)
    return max(plain, relative * largest)
