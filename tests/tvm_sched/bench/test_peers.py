"""Each engine that is installed computes what PyTorch does, on a small network; one that is not is named."""

import importlib.util

import numpy as np
import onnx
import pytest
import torch

from subp_contract.errors import UserError
from tvm_sched.bench import engines, peers
from tvm_sched.bench.engines import Network
from tvm_sched.bench.peers import PEERS
from tvm_sched.frontend.onnx import loading

PACKAGES = {"openvino": "openvino", "openvino-int8": "openvino", "ncnn": "pnnx"}  # of the extra


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    ).eval()
    return Network("small", module, torch.randn(1, 3, 16, 16), None, 0.0)


@pytest.mark.parametrize("name", PEERS)
def test_an_engine_computes_what_pytorch_does(name, network):
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    engine = engines.peer(name, network, threads=1)
    x = network.example_input.numpy()
    expected, output = network.reference(x), engine.call(x)
    assert output.shape == expected.shape and engine.file_bytes > 0
    assert engine.precision == ("int8" if name.endswith("int8") else "float32")
    np.testing.assert_allclose(output, expected, atol=0.02 if engine.precision == "int8" else 1e-4)


def test_weights_that_an_onnx_file_keeps_beside_it_come_along(network, tmp_path):
    path = tmp_path / "network.onnx"
    model = onnx.load_model_from_string(network.onnx)
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    assert (tmp_path / "weights.data").stat().st_size > 0
    loaded, x = loading.load(path), network.example_input.numpy()
    engine = engines.peer("onnxruntime", Network("file", loaded, network.example_input, None, 0.0), threads=1)
    np.testing.assert_allclose(engine.call(x), network.reference(x), atol=1e-5)


def test_int8_weights_take_a_quarter_of_the_file(network):
    wide = Network("wide", torch.nn.Conv2d(64, 256, 3).eval(), torch.randn(1, 64, 6, 6), None, 0.0)
    assert len(wide.onnx_int8) < 0.35 * len(wide.onnx)


def test_quantising_twice_gives_the_same(network):
    again = Network(network.name, network.module, network.example_input, None, 0.0)
    assert again.onnx_int8 == network.onnx_int8


def test_a_package_that_is_not_there_is_named(monkeypatch, network):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(peers.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"'openvino' is not installed: pip install 'subp-cpu\[peers\]'"):
        engines.peer("openvino", network, threads=1)
