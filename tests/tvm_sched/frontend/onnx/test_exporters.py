"""Files as exporters write them, compiled: TorchScript's, torch.export's, and one in TensorFlow's order of axes."""

import warnings

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_models import F32, model_of
from torch import nn

import tvm_sched
from tvm_sched.frontend.onnx import load


def pruned(weight: torch.Tensor, n: int) -> torch.Tensor:
    """The weight, of whose 1xN blocks one of four is kept."""
    kept = (torch.arange(weight.shape[0] // n)[:, None] + torch.arange(weight.shape[1])) % 4 == 0
    return weight * kept.repeat_interleave(n, 0).reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))


class Small(nn.Module):
    """Convolutions with batch norms and a residual, pooling, a resize, a classifier; blocks of zeros."""

    def __init__(self, n: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 8)
        self.conv.weight.data = pruned(self.conv.weight.data, n)
        self.norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = nn.functional.max_pool2d(x + self.norm(self.conv(x)).relu(), 2)
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def exported(folder, dynamo: bool, opset: int):
    """(network, file) of `Small`."""
    torch.manual_seed(0)
    network, file = Small().eval(), folder / "net.onnx"
    about = {"dynamo": True, "verbose": False} if dynamo else {"dynamo": False, "dynamic_axes": {"image": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, 3, 12, 12),), file, input_names=["image"], opset_version=opset, **about
        )
    return network, file


@pytest.mark.parametrize("dynamo, opset", [(False, 11), (False, 13), (True, 18), (True, 20)])
def test_files_of_pytorch_s_exporters(tmp_path, dynamo, opset):
    network, file = exported(tmp_path, dynamo, opset)
    artifact = tvm_sched.compile(file, threads=1)
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(artifact(x.numpy())), network(x), rtol=1e-4, atol=1e-5)
    layers = {layer.name: layer for layer in artifact.explain()}
    assert len(layers) == 3
    (sparse,) = [layer for name, layer in layers.items() if "/conv" in name or name == "conv"]
    assert (sparse.n, sparse.density) == (8, 0.25)
    assert [spec["name"] for spec in artifact.manifest["inputs"]] == ["image"]


def test_an_example_fixes_the_batch(tmp_path):
    network, file = exported(tmp_path, False, 11)
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    made = tvm_sched.compile(file, x, threads=1)(x.numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), network(x), rtol=1e-4, atol=1e-5)


def test_a_file_in_tensorflow_s_order_of_axes():
    generator = np.random.default_rng(0)
    first = generator.standard_normal((16, 3, 3, 3)).astype(np.float32)
    second = pruned(torch.from_numpy(generator.standard_normal((16, 16, 1, 1)).astype(np.float32)), 16).numpy()
    weights = {"first": first, "second": second, "bias": generator.standard_normal(16).astype(np.float32)}
    weights["matrix"] = generator.standard_normal((16, 8)).astype(np.float32)  # [inputs, outputs]
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "first", "bias"], ["a"], "conv1", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], "conv2"),
        helper.make_node("Transpose", ["c"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["nhwc"], ["pooled"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["pooled", "matrix"], ["logits"], "dense"),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    weights |= {"zero": np.float32(0), "six": np.float32(6)}
    model = model_of(nodes, [("image", F32, [-1, 9, 9, 3])], ["scores"], weights, opset=13)
    network = load(model)
    artifact = tvm_sched.compile(network, network.example_inputs(), threads=1)
    (x,) = network.example_inputs(seed=1)
    np.testing.assert_allclose(artifact(x.numpy()), network.reference(x.numpy()), rtol=1e-4, atol=1e-6)
    layers = {layer.name: layer for layer in artifact.explain()}
    assert set(layers) == {"conv1", "conv2", "dense"}
    assert (layers["conv2"].n, layers["conv2"].density) == (16, 0.25)


def test_several_inputs_and_outputs_by_name():
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["rows"], axis=0),
        helper.make_node("Add", ["rows", "x"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
    ]
    table = {"table": np.arange(12, dtype=np.float32).reshape(4, 3) - 6}
    inputs = [("index", 7, [2]), ("x", F32, [2, 3])]
    network = load(model_of(nodes, inputs, ["positive", "sum"], table))
    artifact = tvm_sched.compile(network, network.example_inputs(), threads=1)
    index, x = np.array([1, 0]), np.full((2, 3), 4.5, np.float32)
    for made, wanted in zip(artifact(index, x), network.reference(index, x), strict=True):
        np.testing.assert_array_equal(made, wanted)
    assert [spec["name"] for spec in artifact.manifest["inputs"]] == ["index", "x"]
    assert [spec["name"] for spec in artifact.manifest["outputs"]] == ["positive", "sum"]
