"""Quantised numbers as PyTorch has them, bit by bit: steps, halves, limits, scales of channels."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm.relax import Call

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.frontend import torch_export
from tvm_sched.passes.graph.relax_tools import as_array, is_op

SCALE = 0.0117
qd = torch.ops.quantized_decomposed


class Steps(nn.Module):
    """Every variant: outputs in 8 bits, and what they stand for."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(SCALE))
        self.register_buffer("zero", torch.tensor(7))
        self.register_buffer("scales", torch.rand(4, generator=torch.Generator().manual_seed(0)) / 50 + 0.001)
        self.register_buffer("zeros", torch.tensor([0, 3, -20, 100]))

    def forward(self, x):
        bytes_ = qd.quantize_per_tensor(x, SCALE, 131, 0, 255, torch.uint8)
        signed = qd.quantize_per_tensor.tensor(x, self.scale, self.zero, -128, 127, torch.int8)
        narrow = qd.quantize_per_tensor(x, SCALE, 0, -7, 9, torch.int8)
        channels = qd.quantize_per_channel(x, self.scales, self.zeros, 1, -128, 127, torch.int8)
        onnx = torch.ops.subp.quantize_linear(x, self.scale, self.zero.to(torch.uint8), 1)
        wide = (
            qd.dequantize_per_tensor(bytes_, SCALE, 131, 0, 255, torch.uint8),
            qd.dequantize_per_tensor.tensor(signed, self.scale, self.zero, -128, 127, torch.int8),
            qd.dequantize_per_channel(channels, self.scales, self.zeros, 1, -128, 127, torch.int8),
            qd.dequantize_per_channel(channels, self.scales, None, 1, -128, 127, torch.int8),
        )
        return bytes_, signed, narrow, channels, onnx, *wide


def hard_numbers() -> torch.Tensor:
    """[1, 4, 16, 64]: halves between steps and their neighbours, numbers beyond the range, infinities."""
    steps = (torch.arange(-160, 160) + 0.5) * torch.tensor(SCALE)
    near = torch.cat([steps, torch.nextafter(steps, steps + 1), torch.nextafter(steps, steps - 1)])
    ends = torch.tensor([0.0, -0.0, 1e9, -1e9, float("inf"), -float("inf"), 1e-30, 3e38])
    rest = torch.randn(4096 - len(near) - len(ends), generator=torch.Generator().manual_seed(1))
    return torch.cat([near, ends, rest]).reshape(1, 4, 16, 64)


def test_each_variant_is_pytorchs_bit_by_bit():
    x, network = hard_numbers(), Steps()
    artifact = tvm_sched.compile(network, x, check=False)
    finite = x.clamp(-3e38, 3e38)
    with torch.no_grad():
        expected = network(x)
    for output, of_finite, wanted in zip(artifact(x), artifact(finite), expected, strict=True):
        if wanted.is_floating_point():  # which kernels may compute as q * scale - zero point * scale
            np.testing.assert_allclose(np.asarray(of_finite), wanted.numpy(), rtol=2e-6, atol=2e-7)
            assert np.isnan(np.asarray(output)).all()  # of an input with infinities: docs/trust.md
        else:
            np.testing.assert_array_equal(np.asarray(output), wanted.numpy())


class Layer(nn.Module):
    """A convolution whose int8 weight has zeros in 1x4 blocks."""

    def __init__(self):
        super().__init__()
        weight = torch.randint(-127, 128, (8, 8, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
        weight[:4, ::2] = weight[4:, 1::2] = 0
        self.register_buffer("weight", weight)
        self.register_buffer("scales", torch.linspace(0.001, 0.002, 8))
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))

    def forward(self, x):
        about = (0.02, 5, 0, 255, torch.uint8)
        x = qd.dequantize_per_tensor(qd.quantize_per_tensor(x, *about), *about)
        weight = qd.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return nn.functional.conv2d(x, weight, None, 1, 1)


def test_weights_stay_in_8_bits_until_they_are_folded_and_keep_their_zeros():
    x = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(2))
    imported = torch_export.from_torch(Layer(), x)
    values = [each.value for block in imported.mod["main"].body.blocks for each in block.bindings]
    weight = next(each for each in values if is_op(each, "relax.dequantize") and as_array(each.args[0]) is not None)
    assert isinstance(weight, Call) and str(weight.args[0].ty.dtype) == "int8" and int(weight.attrs.axis) == 0
    artifact = tvm_sched.compile(Layer(), x)
    (layer,) = artifact.explain()
    assert (layer.n, layer.density) == (4, 0.5)
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(artifact(x)), Layer()(x).numpy(), atol=1e-5)


class ByChannel(nn.Module):
    """A layer whose result is quantised channel by channel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("scales", torch.tensor([0.01, 0.02, 0.03, 0.005]))
        self.register_buffer("zeros", torch.tensor([0, 10, -10, 3]))

    def forward(self, x):
        q = qd.quantize_per_channel(self.layer(x), self.scales, self.zeros, 1, -128, 127, torch.int8)
        return qd.dequantize_per_channel(q, self.scales, self.zeros, 1, -128, 127, torch.int8)


def test_scales_go_with_their_channels_whatever_the_order_of_axes():
    torch.manual_seed(0)
    network, x = ByChannel().eval(), torch.randn(1, 3, 8, 8)
    artifact = tvm_sched.compile(network, x)
    with torch.no_grad():
        steps = np.abs(np.asarray(artifact(x)) - network(x).numpy()) / network.scales.numpy().reshape(1, 4, 1, 1)
    assert steps.max() < 1.01 and (steps > 0.5).mean() < 0.01  # rounded the other way, if at all


class Dynamic(nn.Module):
    def forward(self, x):
        scale, zero = qd.choose_qparams.tensor(x, 0, 255, 1e-6, torch.uint8)
        return qd.quantize_per_tensor.tensor(x, scale, zero, 0, 255, torch.uint8)


class Sixteen(nn.Module):
    def forward(self, x):
        return qd.quantize_per_tensor(x, 0.1, 0, -32768, 32767, torch.int16)


@pytest.mark.parametrize(("network", "words"), [(Dynamic(), "dynamic quantisation"), (Sixteen(), "int8 and uint8")])
def test_other_quantisation_is_refused_in_a_sentence(network, words):
    with pytest.raises(UserError, match=words):
        torch_export.from_torch(network, torch.zeros(2, 3))
