"""An ONNX file is checked against ONNX Runtime, and its first node that is wrong is named."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import tvm_sched
from tvm_sched.frontend.onnx.operators import OPERATORS


@pytest.fixture
def file(tmp_path):
    """Conv, LeakyRelu, GlobalAveragePool, Flatten."""
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3), dtype="float32")
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["a"], "conv"),
        helper.make_node("LeakyRelu", ["a"], ["b"], "leaky", alpha=0.3),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "pool"),
        helper.make_node("Flatten", ["c"], ["y"], "flat"),
    ]
    x, y = (
        helper.make_tensor_value_info(*each) for each in (("x", TensorProto.FLOAT, [1, 3, 8, 8]), ("y", 1, [1, 16]))
    )
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(weight, "weight")])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_it_is_held_against_onnx_runtime(file):
    assert tvm_sched.compile(file).manifest["check"]["verified"]


def test_a_node_that_is_converted_wrong_is_named(file, monkeypatch):
    leaky = OPERATORS["LeakyRelu"]
    wrong = type(leaky)(**vars(leaky) | {"convert": lambda _node, x: torch.nn.functional.leaky_relu(x, 0.1)})
    monkeypatch.setitem(OPERATORS, "LeakyRelu", wrong)
    with pytest.raises(
        tvm_sched.CheckFailed, match=r"'y' differs .*operator LeakyRelu \(node 'leaky'\), .* in PyTorch"
    ):
        tvm_sched.compile(file)
