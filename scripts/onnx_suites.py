"""ONNX's backend suites, as the `onnx` package ships them, as cases: a model, inputs and the outputs that are wanted.

A model of the suite 'node' is one operator (or its definition by others, '..._expanded'), and takes everything as an
input. What a network has as a constant becomes an initialiser here: inputs that the operator's schema calls by one of
`PARAMETERS` (axes, shapes, scales, ...), unless it has no others; an expanded model has those of its operator. Models
of 'light' are known networks, of weights that they make themselves, on the input that ONNX's own runner takes.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test import loader

SUITES = ("node", "simple", "pytorch-operator", "pytorch-converted", "light")
DATA = Path(loader.DATA_DIR)
# What ONNX's schemas call inputs that say how an operator works, not on what.
PARAMETERS = frozenset(
    (
        *("axes", "axis", "block_shape", "condition", "constant_value", "delta", "depth", "dft_length", "ends"),
        *("frame_length", "frame_step", "image_shape", "k", "limit", "max", "max_output_boxes_per_class", "min"),
        *("output_shape", "pads", "ratio", "repeats", "roi", "scales", "sequence_lens", "shape", "size", "sizes"),
        *("split", "start", "starts", "steps", "training_mode"),
    )
)


@dataclass(frozen=True)
class Case:
    """`inputs` are those of the model that are no initialisers; None, as `outputs`, where they are no tensors."""

    model: ModelProto
    dtype: str  # of the operator's data: the first input
    inputs: list[np.ndarray] | None
    outputs: list[np.ndarray] | None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where the model uses none."""
        return max((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), default=0)


def names() -> list[str]:
    """Of all cases, 'suite/test'."""
    files = [f"{suite}/{path.name}" for suite in SUITES[1:4] for path in sorted((DATA / suite).glob("test_*"))]
    light = [f"light/{path.stem}" for path in sorted((DATA / "light").glob("*.onnx"))]
    return [f"node/{name}" for name in nodes()] + files + light


def case(name: str) -> Case:
    """The case of that name."""
    suite, test = name.split("/")
    if suite == "node":
        return of_node(test)
    return of_light(test) if suite == "light" else of_folder(DATA / suite / test)


@cache
def nodes() -> dict[str, Any]:
    """The test cases of single operators, by name."""
    return {each.name: each for each in loader.load_node_model_tests()}


def of_node(test: str) -> Case:
    """A case of one operator, its parameters frozen."""
    found = nodes()[test]
    given, wanted = (tensors(each) for each in found.data_sets[0])
    model = ModelProto()
    model.CopyFrom(found.model)
    dtype = dtype_of(model)
    if given is None:
        return Case(model, dtype, None, wanted)
    frozen = parameters(nodes()[test.split("_expanded")[0]].model)
    values = dict(zip([each.name for each in model.graph.input], given, strict=True))
    if frozen >= set(values):
        frozen = set()
    kept = [each for each in model.graph.input if each.name not in frozen]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in values if name in frozen)
    return Case(model, dtype, [value for name, value in values.items() if name not in frozen], wanted)


def parameters(model: ModelProto) -> set[str]:
    """The inputs of a model of one operator that a network has as constants."""
    (node,) = model.graph.node
    version = next((each.version for each in model.opset_import if each.domain == node.domain), 1)
    formal = onnx.defs.get_schema(node.op_type, version, node.domain).inputs
    return {
        name
        for number, name in enumerate(node.input)
        if name and formal[min(number, len(formal) - 1)].name.lower() in PARAMETERS
    }


def of_folder(folder: Path) -> Case:
    """A case of a folder, with its first set of data."""
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    known = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in known]
    try:
        given = [read(data / f"input_{number}.pb") for number in range(len(inputs))]
        wanted = [read(data / f"output_{number}.pb") for number in range(len(model.graph.output))]
    except Exception:  # of protobuf's kinds: a file that holds no tensor
        return Case(model, dtype_of(model), None, None)
    return Case(model, dtype_of(model), given, wanted)


def of_light(test: str) -> Case:
    """A known network, on a ramp from 0 to 1."""
    model = onnx.load(DATA / "light" / f"{test}.onnx")
    known = {each.name for each in model.graph.initializer}
    given = []
    for value in model.graph.input:
        if value.name not in known:
            shape = tuple(each.dim_value or 1 for each in value.type.tensor_type.shape.dim)
            count = int(np.prod(shape))
            given.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    wanted = [read(DATA / "light" / f"{test}_output_{number}.pb") for number in range(len(model.graph.output))]
    return Case(model, "float32", given, wanted)


def read(file: Path) -> np.ndarray:
    """The tensor in a file."""
    tensor = TensorProto()
    tensor.ParseFromString(file.read_bytes())
    return numpy_helper.to_array(tensor)


def tensors(values: Any) -> list[np.ndarray] | None:
    """Arrays; None where one is a list of them, or nothing."""
    made = [numpy_helper.to_array(each) if isinstance(each, TensorProto) else each for each in values]
    return None if any(isinstance(each, list) or each is None for each in made) else [np.asarray(each) for each in made]


def dtype_of(model: ModelProto) -> str:
    """Of a model's first input that is no initialiser, as NumPy calls it."""
    known = {each.name for each in model.graph.initializer}
    first = next((each for each in model.graph.input if each.name not in known), None)
    if first is None or not first.type.HasField("tensor_type"):
        return "none" if first is None else "sequence"
    return str(helper.tensor_dtype_to_np_dtype(first.type.tensor_type.elem_type))
