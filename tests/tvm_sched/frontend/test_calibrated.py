"""`tvm_sched.quantize`: programs that compile, at any batch; calibration data that cannot be."""

import numpy as np
import pytest
import torch
from quantised_networks import Shuffled, batches, block, named, operators
from torch import nn

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import precision, targets
from tvm_sched.deploy.manifest import limits

SHAPE = (2, 3, 8, 8)


@pytest.fixture(scope="module")
def program():
    return tvm_sched.quantize(block(), [*batches(3, *SHAPE), *batches(1, 5, 3, 8, 8)])


def test_the_compiled_network_is_the_quantised_program(program):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    artifact = tvm_sched.compile(program)
    assert artifact.manifest["check"]["verified"]
    with torch.no_grad():
        expected = program.module()(x).numpy()
    (limit,) = limits(artifact.manifest)
    assert np.abs(np.asarray(artifact(x)) - expected).max() <= limit < 0.2 * np.abs(expected).max()
    assert artifact.check() <= limit
    layers = {layer.name: (layer.n, layer.density) for layer in artifact.explain()}
    assert layers["linear.0"] == (4, 0.5)
    assert {"stem.0", "depthwise.0"} < set(layers)


def test_a_program_of_an_open_batch_takes_the_examples(program):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    artifact = tvm_sched.compile(program, x)
    assert artifact.signature.inputs[0].shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match="does not take inputs of"):
        tvm_sched.compile(program, torch.zeros(1, 3, 9, 9))


def test_a_signed_network_with_shuffle_and_split():
    torch.manual_seed(1)
    network = Shuffled().eval()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    made = tvm_sched.quantize(network, batches(4, 1, 4, 8, 8))
    artifact = tvm_sched.compile(made)
    with torch.no_grad():
        expected, in_float = made.module()(x).numpy(), network(x).numpy()
    np.testing.assert_allclose(np.asarray(artifact(x)), expected, atol=limits(artifact.manifest)[0])
    np.testing.assert_allclose(expected, in_float, atol=0.1 * np.abs(in_float).max())
    zero_points = [node.args[2] for node in operators(made) if named(node) == "quantize_per_tensor"]
    assert all(zero_points[:2])  # hardswish has negative numbers too


def test_weights_of_7_bits():
    program = tvm_sched.quantize(block(), batches(2, *SHAPE), weight_bits=7)
    weights = [each for each in program.state_dict.values() if each.dtype == torch.int8]
    assert weights and all(each.abs().max() == 63 for each in weights)
    with pytest.raises(UserError, match="7 or 8 bits, not 6"):
        tvm_sched.quantize(block(), batches(1, *SHAPE), weight_bits=6)


@pytest.mark.parametrize(("target", "largest"), [("x86-avx2", 63), ("x86-avx512", 63), ("x86-avx512-vnni", 127)])
def test_what_compile_quantises_has_the_bits_that_the_target_multiplies_fastest(target, largest):
    x, *_ = data = batches(2, *SHAPE)
    numbers = precision.of("int8", targets.get(target))
    program = numbers.before(block(), data, x, None)
    assert max(each.abs().max() for each in program.state_dict.values() if each.dtype == torch.int8) == largest
    made = tvm_sched.compile(block(), x, target=target, precision="int8", calibration=data, threads=1)
    assert made.manifest["layers"][0]["precision"] == "int8"


def test_the_network_stays_as_it_is():
    network = block()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    tvm_sched.quantize(network, batches(1, *SHAPE))
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


NAN, WIDE = torch.full(SHAPE, float("nan")), torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "no calibration data"),
        ([torch.zeros(0, 3, 8, 8)], "batch 1 is empty"),
        ([*batches(1, *SHAPE), NAN], "batch 2 holds numbers that are not finite"),
        (
            [*batches(1, *SHAPE), WIDE],
            r"an input of \[2, 3, 9, 9\] float32, where the network takes \[2, 3, 8",
        ),
        ([*batches(1, *SHAPE), batches(1, *SHAPE)[0].double()], "float64, where the network takes"),
        ([*batches(1, *SHAPE), (NAN.zero_(), NAN)], "batch 2 has 2 inputs, and the network takes 1"),
        (batches(1, 2, 1, 8, 8), r"cannot trace this network on an input of \[2, 1, 8, 8\].*to have 3 channels"),
    ],
)
def test_calibration_data_that_cannot_be_are_refused(calibration, words):
    calibration = [torch.full(SHAPE, float("nan")) if each is NAN else each for each in calibration]
    with pytest.raises(UserError, match=words):
        tvm_sched.quantize(block(), calibration)


def test_networks_that_are_not_to_be_quantised_are_refused(program):
    with pytest.raises(UserError, match="nothing to quantise"):
        tvm_sched.quantize(nn.ReLU(), batches(1, 2, 3))
    with pytest.raises(UserError, match="quantised already"):
        tvm_sched.quantize(program, batches(1, *SHAPE))
