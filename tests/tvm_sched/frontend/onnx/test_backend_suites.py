"""A sample of ONNX's backend suites (`scripts/check_onnx_suites.py` runs them all)."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.backend.test import loader

import tvm_sched
from tvm_sched.frontend.onnx import load

DATA = Path(loader.DATA_DIR)
EAGER = sorted(
    folder for suite in ("pytorch-operator", "pytorch-converted") for folder in (DATA / suite).glob("test_*")
)
COMPILED = EAGER[::13]


def tensor(file: Path) -> np.ndarray:
    proto = TensorProto()
    proto.ParseFromString(file.read_bytes())
    return numpy_helper.to_array(proto)


def inputs_and_outputs(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    data = folder / "test_data_set_0"
    return tuple(
        [tensor(data / f"{kind}_{number}.pb") for number in range(len(list(data.glob(f"{kind}_*.pb"))))]
        for kind in ("input", "output")
    )


def hold(made, wanted: list[np.ndarray]) -> None:
    made = made if isinstance(made, tuple) else (made,)
    for mine, suites in zip(made, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(mine), suites, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("folder", EAGER, ids=lambda folder: folder.name)
def test_networks_of_files(folder):
    inputs, outputs = inputs_and_outputs(folder)
    with torch.no_grad():
        hold(load(folder / "model.onnx")(*map(torch.tensor, inputs)), outputs)


@pytest.mark.parametrize("folder", COMPILED, ids=lambda folder: folder.name)
def test_compiled(folder):
    inputs, outputs = inputs_and_outputs(folder)
    artifact = tvm_sched.compile(folder / "model.onnx", tuple(map(torch.tensor, inputs)), threads=1)
    hold(artifact(*inputs), outputs)


def test_a_known_network():
    model = onnx.load(DATA / "light" / "light_squeezenet.onnx")
    network = load(model)
    (value,) = network.inputs
    x = (np.arange(np.prod(value.shape)).reshape(value.shape) / np.prod(value.shape)).astype(np.float32)
    with torch.no_grad():
        hold(network(torch.from_numpy(x)), [tensor(DATA / "light" / "light_squeezenet_output_0.pb")])
