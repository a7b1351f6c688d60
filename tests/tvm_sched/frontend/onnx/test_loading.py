"""What `load` makes of a file, and what it refuses."""

import copy

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from onnx_models import F32, floats, ints, model_of, node_model
from torch import nn

from subp_contract.errors import UserError
from tvm_sched.frontend.onnx import load


def classifier(batch="batch"):
    """conv, relu, flatten by a computed shape, gemm: as exporters write networks of open batch."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="/act/Relu"),
        helper.make_node("Shape", ["b"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["b", "wanted"], ["c"], name="/flatten/Reshape"),
        helper.make_node("Gemm", ["c", "matrix", "vector"], ["y"], name="/head/Gemm", transB=1),
    ]
    weights = {
        "conv.weight": floats(4, 3, 3, 3),
        "zero": np.array(0),
        "axes": ints(0),
        "rest": ints(-1),
        "matrix": floats(5, 4 * 6 * 6, seed=1),
        "vector": floats(5, seed=2),
    }
    return model_of(nodes, [("x", F32, [batch, 3, 6, 6])], ["y"], weights, opset=13)


def test_layers_have_the_file_s_names():
    network = load(classifier())
    layers = {name: type(layer) for name, layer in network.named_modules() if list(layer.parameters(recurse=False))}
    assert layers == {"conv": nn.Conv2d, "/head/Gemm": nn.Linear}
    assert network.input_names == ("x",) and network.output_names == ("y",)


@pytest.mark.parametrize("batch", [None, 3])
def test_an_open_batch_is_fixed(batch):
    network = load(classifier(), batch=batch)
    (x,) = network.example_inputs()
    assert x.shape == (batch or 1, 3, 6, 6)
    np.testing.assert_allclose(network(x).numpy(), network.reference(x.numpy()), rtol=1e-5, atol=1e-5)


def test_what_follows_from_shapes_is_computed_when_loaded():
    names = {name for name, _ in load(classifier()).named_modules()}
    assert "/flatten/Reshape" in names and not {"shape", "n", "n1", "wanted"} & names


def test_a_network_can_be_copied_and_exported():
    network = copy.deepcopy(load(classifier()))
    (x,) = network.example_inputs()
    program = torch.export.export(network, (x,))
    assert set(program.state_dict) == {"conv.weight", "/head/Gemm.weight", "/head/Gemm.bias"}
    torch.testing.assert_close(program.module()(x), network(x))


def test_a_fixed_batch_stays():
    with pytest.raises(UserError, match=r"input 'x' of .* has 2 along axis 0, not 4"):
        load(classifier(batch=2), batch=4)


def test_other_open_axes_are_told():
    x = ("image", F32, ["N", 3, "height", "width"])
    model = model_of([helper.make_node("Relu", ["image"], ["y"])], [x], ["y"])
    with pytest.raises(UserError, match="leaves the extent 'height' of input 'image' \\(axis 2\\) open"):
        load(model)
    assert load(model, size=8).inputs[0].shape == (1, 3, 8, 8)
    assert load(model, shapes={"image": (2, 3, 4, 5)}).inputs[0].shape == (2, 3, 4, 5)
    with pytest.raises(UserError, match="has no input 'x'; its inputs are image"):
        load(model, shapes={"x": (2, 3, 4, 5)})


def test_weights_may_be_in_another_file(tmp_path):
    model, file = classifier(), tmp_path / "net.onnx"
    onnx.save(copy.deepcopy(model), file, save_as_external_data=True, location="net.bin", size_threshold=64)
    x = torch.from_numpy(floats(1, 3, 6, 6))
    torch.testing.assert_close(load(file)(x), load(model)(x))
    np.testing.assert_allclose(load(file).reference(x.numpy()), load(file)(x).numpy(), rtol=1e-5, atol=1e-5)
    data = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(data[:100])
    with pytest.raises(UserError, match=r"net\.bin, which is too short"):
        load(file)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(UserError, match=r"weights '.*' .*net\.bin, which is not there"):
        load(file)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path, share):
    data = classifier().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"net\.onnx is (truncated or not an ONNX file|not valid ONNX)"):
        load(tmp_path / "net.onnx")
    (tmp_path / "text.onnx").write_text("no protobuf at all")
    with pytest.raises(UserError, match="truncated or not an ONNX file"):
        load(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="there is no file"):
        load(tmp_path / "absent.onnx")


def test_flipped_bytes_end_in_a_sentence(capfd):
    data, random = classifier().SerializeToString(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            if data[place] < 128:  # structure and names more than weights
                damaged[place] = random.integers(0, 256)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(damaged))
            load(model)
        except (UserError, DecodeError):
            refused += 1
    assert refused > 0 and capfd.readouterr().err == ""


def relu_and(*nodes: onnx.NodeProto, **about) -> onnx.ModelProto:
    return model_of([helper.make_node("Relu", ["x"], ["a"], name="act"), *nodes], [("x", F32, [2, 3])], ["y"], **about)


def subgraph(output: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, F32, [2, 3])
    return helper.make_graph([helper.make_node("Neg", ["a"], [output])], output, [], [value])


def loop() -> onnx.NodeProto:
    values = [("i", TensorProto.INT64, []), ("keep", TensorProto.BOOL, []), ("carried", F32, [2, 3])]
    inputs = [helper.make_tensor_value_info(*each) for each in values]
    nodes = [helper.make_node("Identity", ["keep"], ["again"]), helper.make_node("Neg", ["carried"], ["next"])]
    outputs = [
        helper.make_tensor_value_info("again", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", F32, [2, 3]),
    ]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    return helper.make_node("Loop", ["count", "", "a"], ["y"], name="repeat", body=body)


REFUSED = {
    "a cycle": (
        [helper.make_node("Add", ["a", "c"], ["b"], name="sum"), helper.make_node("Neg", ["b"], ["c"], name="back")],
        r"cycle, through (Add \(node 'sum'\), Neg \(node 'back'\)|Neg \(node 'back'\), Add \(node 'sum'\))",
    ),
    "another domain": (
        [helper.make_node("FusedConv", ["a"], ["y"], name="fused", domain="com.microsoft")],
        "operator FusedConv \\(node 'fused'\\) is of the domain 'com.microsoft'",
    ),
    "a value that nothing makes": (
        [helper.make_node("Add", ["a", "b"], ["y"], name="sum")],
        "operator Add \\(node 'sum'\\) takes 'b', which nothing makes",
    ),
    "a loop": ([loop()], "operator Loop \\(node 'repeat'\\) runs a subgraph"),
    "random numbers": (
        [helper.make_node("RandomNormalLike", ["a"], ["y"], name="noise")],
        "operator RandomNormalLike \\(node 'noise'\\) draws random numbers",
    ),
    "sizes that depend on values": (
        [helper.make_node("NonZero", ["a"], ["y"], name="found")],
        "operator NonZero \\(node 'found'\\) gives a result whose size depends on values",
    ),
    "a shape that is computed": (
        [
            helper.make_node("Cast", ["a"], ["b"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["a", "b"], ["y"], name="view"),
        ],
        "operator Reshape \\(node 'view'\\) has an input 'shape' that depends on the network's inputs",
    ),
    "shapes that do not fit": (
        [helper.make_node("MatMul", ["a", "a"], ["y"], name="square")],
        "operator MatMul \\(node 'square'\\) cannot be computed on inputs of \\[2, 3\\], \\[2, 3\\]",
    ),
    "an unknown operator": ([helper.make_node("Nonesuch", ["a"], ["y"], name="odd")], "Nonesuch"),
    "dynamic quantisation": (
        [helper.make_node("DynamicQuantizeLinear", ["a"], ["y", "s", "z"], name="to_uint8")],
        "operator DynamicQuantizeLinear \\(node 'to_uint8'\\) .* statically in QDQ form",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_operator_and_node(what):
    nodes, sentence = REFUSED[what]
    weights = {"count": np.array(3), "scale": np.float32(0.1)}
    values = [helper.make_tensor_value_info("x", F32, [2, 3])]
    outputs = [helper.make_tensor_value_info("y" if what != "a cycle" else "b", F32, None)]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["a"], name="act"), *nodes], "g", values, outputs, held)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(UserError, match=sentence):
        load(helper.make_model(graph, opset_imports=imports, ir_version=9))


@pytest.mark.parametrize("known", [True, False])
def test_an_if_is_taken_where_its_condition_is_known(known):
    branches = {name: subgraph(name) for name in ("then_branch", "else_branch")}
    branches["else_branch"].node[0].op_type = "Abs"
    nodes = [helper.make_node("If", ["condition"], ["y"], name="choice", **branches)]
    if known:
        model = relu_and(*nodes, weights={"condition": np.array(True)})
        x = torch.from_numpy(floats(2, 3))
        torch.testing.assert_close(load(model)(x), -x.relu())
        return
    total = [
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["condition"], to=9),
    ]
    with pytest.raises(UserError, match="operator If \\(node 'choice'\\) runs a subgraph"):
        load(relu_and(*total, *nodes))


def test_nodes_may_stand_in_any_order():
    model = classifier()
    ordered = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(ordered))
    x = torch.from_numpy(floats(1, 3, 6, 6))
    torch.testing.assert_close(load(model)(x), load(classifier())(x))


def test_functions_of_the_file_are_inlined():
    body = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["v", "k"], ["w"]),
        helper.make_node("LeakyRelu", ["w"], ["z"]),
    ]
    body[2].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function("mine", "Twice", ["v"], ["z"], body, [helper.make_opsetid("", 17)], ["slope"])
    nodes = [
        helper.make_node("Twice", ["x"], ["k"], name="one", domain="mine", slope=0.5),
        helper.make_node("Twice", ["k"], ["y"], name="two", domain="mine", slope=0.25),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F32, [2, 3])],
        [helper.make_tensor_value_info("y", F32, [2, 3])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    network = load(helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9))
    x = floats(2, 3)
    np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), network.reference(x), rtol=1e-6)


def test_inputs_of_whole_numbers_are_valid_as_indices():
    model = node_model("Gather", [floats(2, 5), ints(0, 1, 1)], [0])
    (index,) = load(model).example_inputs()
    assert index.dtype == torch.int64 and set(index.tolist()) <= {0, 1}
    torch.testing.assert_close(load(model)(index), torch.from_numpy(floats(2, 5))[index])


def test_sparse_initialisers_are_dense_here():
    values = numpy_helper.from_array(np.array([2.0, -3.0], np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(ints(1, 5), "at"), [2, 3])
    model = relu_and(helper.make_node("Add", ["a", "w"], ["y"]), weights={"w": floats(2, 3)})
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(sparse)
    x = torch.zeros(2, 3)
    assert load(model)(x).tolist() == [[0, 2, 0], [0, 0, -3]]
