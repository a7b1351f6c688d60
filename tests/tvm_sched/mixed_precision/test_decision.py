"""`precision="auto"`: what is chosen where one precision costs less than another, and that the network is right."""

import numpy as np
import pytest
import torch
from quantised_networks import batches, block
from torch import nn

import tvm_sched
from tvm_sched import targets
from tvm_sched.mixed_precision import decision
from tvm_sched.pipeline import Compilation

SHAPE = (2, 3, 8, 8)
LAYERS = ("stem.0", "depthwise.0", "linear.0", "classifier")


def with_costs(monkeypatch, int8, float32):
    """Lets layers cost so many million cycles in either precision, in place of the kernels' estimates."""

    def cycles(program, example, compilation):
        quantised = decision.calibrating.is_quantised(program)
        return {name: 1e6 * cost for name, cost in zip(LAYERS, int8 if quantised else float32, strict=True)}

    monkeypatch.setattr(decision, "layer_cycles", cycles)


@pytest.mark.parametrize(
    ("int8", "float32", "word", "told"),
    [
        ((1, 1, 1, 1), (2, 2, 2, 2), "int8", "auto: int8, 4.00 million cycles by estimate (float32 8.00)"),
        ((1, 1, 5, 3), (2, 2, 2, 2), "int8", "auto: int8 in 2 of 4 layers, float32 in the others, 6.0"),
        ((3, 3, 3, 3), (2, 2, 2, 2), "float32", "auto: float32, 8.00 million cycles by estimate (int8 12.00)"),
        ((1.99, 3, 3, 3), (2, 2, 2, 2), "float32", "auto: float32, 8.00 million cycles by estimate (int8 10.99)"),
    ],
)
def test_what_costs_less_by_more_than_noise_is_chosen(monkeypatch, int8, float32, word, told):
    with_costs(monkeypatch, int8, float32)
    network, compilation = block(), Compilation(targets.get("x86-avx2"))
    made = decision.decide(network, batches(1, *SHAPE), ((batches(1, *SHAPE)[0],), {}), compilation)
    assert made.precision.word == word and made.told.startswith(told)


def test_a_network_in_two_precisions_computes_what_its_program_does(monkeypatch):
    with_costs(monkeypatch, (5, 5, 1, 1), (2, 2, 2, 2))
    x, data, network = batches(1, *SHAPE)[0], batches(3, *SHAPE), block()
    artifact = tvm_sched.compile(network, x, threads=1, precision="auto", calibration=data)
    manifest = artifact.manifest
    assert manifest["precision"] == "int8" and manifest["check"]["verified"] and "2 of 4" in manifest["decision"]
    precisions = {layer.name: layer.precision for layer in artifact.explain()}
    assert {name for name in LAYERS if precisions[name] == "float32"} == set(LAYERS[:2])
    with torch.no_grad():
        expected = network(x).numpy()
    error = np.abs(np.asarray(artifact(x)) - expected).max()
    assert 0 < error < 0.02 * np.abs(expected).max()  # some values are rounded to a 255th of their range


def test_without_calibration_data_it_is_what_needs_none():
    network, x = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 8, 1)).eval(), torch.randn(1, 16, 8, 8)
    here = tvm_sched.compile(network, x, target="x86-avx2", threads=1, precision="auto").manifest
    assert here["precision"] == "float32" and here["decision"].endswith("; int8 takes calibration data")
    arm = tvm_sched.compile(network, x, target="cortex-a76", threads=1, precision="auto").manifest
    assert arm["precision"] == "float16" and "fphp" in arm["cpu_flags"]


def test_a_quantised_program_stays_one():
    program = tvm_sched.quantize(block(), batches(2, *SHAPE))
    made = decision.decide(program, None, program.example_inputs, Compilation(targets.get("x86-avx2")))
    assert made.precision.word == "int8" and made.told == "auto: int8, as the network is quantised already"


def test_the_estimates_of_products_over_pixels_choose_8_bits():
    network = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 28, 28, generator=torch.Generator().manual_seed(0))
    made = decision.decide(network, [x], ((x,), {}), Compilation(targets.get("x86-avx512-vnni")))
    assert made.precision.word == "int8"
