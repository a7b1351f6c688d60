"""Quantised ONNX files in QDQ form: as ONNX Runtime runs them node by node; other forms are refused."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import F32, floats, model_of, node_model
from quantised_networks import block

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy.manifest import limits
from tvm_sched.frontend import onnx as frontend

ort = pytest.importorskip("onnxruntime")
SCALES = np.array([0.01, 0.02, 0.003], np.float32)


def hard_numbers():
    """[1, 3, 8, 16] with halves of a step of 0.02 and numbers out of range."""
    halves = (np.arange(-160, 160, dtype=np.float32) + np.float32(0.5)) * np.float32(0.02)
    return np.concatenate([halves, floats(64) * 3]).astype(np.float32).reshape(1, 3, 8, 16)


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, None])
@pytest.mark.parametrize("channels", [False, True])
def test_a_pair_is_onnx_runtimes_bit_by_bit(opset, dtype, channels):
    if channels and opset < 13:
        pytest.skip("opset 10 has no axis")
    scale = SCALES if channels else np.float32(0.02)
    zero = [] if dtype is None else ["zero"]
    weights = {"scale": np.asarray(scale)}
    if zero:
        weights["zero"] = np.full(np.shape(scale), 5, dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", *zero], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", *zero], ["y"]),
    ]
    x = hard_numbers()
    network = frontend.load(model_of(nodes, [("x", F32, x.shape)], ["q", "y"], weights, opset))
    with torch.no_grad():
        made = network(torch.from_numpy(x))
    for value, expected in zip(made, network.reference(x), strict=True):
        np.testing.assert_array_equal(value.numpy(), expected)


def quantised_file(path, **options):
    """ONNX Runtime's static quantisation of the block."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"x": floats(1, 3, 8, 8, seed=seed)} for seed in range(4)])

        def get_next(self):
            return next(self.batches, None)

    plain = path.with_name("float.onnx")
    torch.onnx.export(block(), (torch.zeros(1, 3, 8, 8),), plain, input_names=["x"], dynamo=False, opset_version=17)
    q.quantize_static(plain, path, Reader(), weight_type=q.QuantType.QInt8, quant_format=q.QuantFormat.QDQ, **options)
    return path


@pytest.mark.parametrize("options", ["per_channel", "per_tensor", "signed"])
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtimes_quantiser(options, tmp_path):
    from onnxruntime.quantization import QuantType

    chosen = {"per_channel": options != "per_tensor"}
    chosen |= {"activation_type": QuantType.QInt8} if options == "signed" else {}
    file = quantised_file(tmp_path / "net.onnx", **chosen)
    artifact = tvm_sched.compile(file)
    x = floats(1, 3, 8, 8, seed=9)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = ort.InferenceSession(file, options).run(None, {"x": x})
    np.testing.assert_allclose(np.asarray(artifact(x)), expected, atol=limits(artifact.manifest)[0])
    layers = {layer.name: layer.density for layer in artifact.explain()}
    assert layers["/linear/linear.0/Conv"] == 0.5 and "/stem/stem.0/Conv" in layers


def test_a_products_scales_go_with_its_outputs():
    x, weights = floats(2, 6), {"w": np.arange(-12, 12, dtype=np.int8).reshape(6, 4)}
    weights["s"] = np.array([0.1, 0.2, 0.05, 0.01], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], axis=1),
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
    ]
    network = frontend.load(model_of(nodes, [("x", F32, x.shape)], ["y"], weights))
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), network.reference(x), rtol=1e-5, atol=1e-5)


def test_weights_stay_in_8_bits():
    weights = {"w": np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 2, 2), "s": np.array([0.1, 0.2], np.float32)}
    weights |= {"b": np.array([100, -50], np.int32), "bs": np.array([0.001, 0.002], np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bias"], axis=0),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"], name="conv"),
    ]
    x = floats(1, 3, 5, 5)
    network = frontend.load(model_of(nodes, [("x", F32, x.shape)], ["y"], weights))
    assert [value.dtype for value in network.state_dict().values() if value.ndim == 4] == [torch.int8]
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), network.reference(x), rtol=1e-5, atol=1e-5)


BLOCKS = {"scale": np.ones((1, 3, 2, 16), np.float32)}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            model_of(
                [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], axis=2, block_size=4)],
                [("x", F32, (1, 3, 8, 16))],
                ["y"],
                BLOCKS,
                21,
            ),
            "scales of blocks; this compiler takes int8 and uint8 by tensor or by channel",
        ),
        (
            model_of(
                [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], output_dtype=TensorProto.INT16)],
                [("x", F32, (1, 3))],
                ["y"],
                {"scale": np.float32(0.1)},
                21,
            ),
            "quantises to int16",
        ),
        (
            model_of(
                [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], output_dtype=TensorProto.FLOAT8E4M3FN)],
                [("x", F32, (1, 3))],
                ["y"],
                {"scale": np.float32(0.1)},
                21,
            ),
            "FLOAT8E4M3FN",
        ),
        (
            node_model("MatMulInteger", [np.ones((2, 3), np.uint8), np.ones((3, 2), np.int8)], (1,)),
            "quantise the network statically in QDQ form",
        ),
    ],
)
def test_other_forms_are_refused_in_a_sentence(model, words):
    with pytest.raises(UserError, match=words):
        frontend.load(model)


def test_qoperator_form_is_refused_with_what_to_do():
    node = helper.make_node("QLinearAdd", ["x", "s", "z", "x", "s", "z", "s", "z"], ["y"], domain="com.microsoft")
    weights = {"s": np.float32(0.1), "z": np.uint8(3)}
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [2])],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [2])],
            [
                helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(v.dtype), [], [v])
                for name, v in weights.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )
    with pytest.raises(UserError, match=r"QLinearAdd .*in QDQ form"):
        frontend.load(model)
