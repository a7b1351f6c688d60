"""Small ONNX models for tests."""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

F32 = TensorProto.FLOAT
Value = tuple[str, int, Sequence[int | str] | None]  # name, type, shape


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> ModelProto:
    """A model of these nodes, its outputs' types inferred, or float32 where they cannot be."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.elem_type:
            value.type.CopyFrom(helper.make_tensor_type_proto(F32, None))
    return model


def node_model(
    op: str,
    inputs: Sequence[np.ndarray | None],
    constants: Sequence[int] = (),
    opset: int = 17,
    outputs: int = 1,
    **attributes,
) -> ModelProto:
    """A model of one node; `constants` are the places of the inputs that the file holds, None is left out."""
    names = ["" if each is None else f"input_{number}" for number, each in enumerate(inputs)]
    made = [f"output_{number}" for number in range(outputs)]
    given = {
        name: array
        for number, (name, array) in enumerate(zip(names, inputs, strict=True))
        if name and number in constants
    }
    values = [
        (name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
        if name and name not in given
    ]
    return model_of([helper.make_node(op, names, made, name="the_node", **attributes)], values, made, given, opset)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """A vector of whole numbers."""
    return np.array(values, dtype=np.int64)
