"""How far rounding may move the outputs of a quantised network, and no further."""

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from subp_contract.errors import CheckFailed
from tvm_sched.frontend import torch_export
from tvm_sched.kernels.direct_conv2d import KERNEL as DIRECT
from tvm_sched.verification import quantised
from tvm_sched.verification.cases import Case, found
from tvm_sched.verification.comparison import compare
from tvm_sched.verification.precise_pairs import PrecisePairs
from tvm_sched.verification.reference import Reference

qd = torch.ops.quantized_decomposed
SCALE = 0.05


class Net(nn.Module):
    """An output behind a layer, one that is dequantised, one in 8 bits, and one in float32."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x):
        q = qd.quantize_per_tensor(torch.tanh(x), SCALE, 128, 0, 255, torch.uint8)
        wide = qd.dequantize_per_tensor(q, SCALE, 128, 0, 255, torch.uint8)
        return self.layer(wide), wide, q, x + 1


@pytest.fixture(scope="module")
def imported():
    torch.manual_seed(0)
    return torch_export.from_torch(Net().eval(), torch.randn(3, 6))


def test_outputs_may_move_as_two_steps_of_what_is_quantised_last_move_them(imported):
    x = np.random.default_rng(0).standard_normal((3, 6), "float32")
    layer, wide, whole, apart = quantised.allowances(imported.core, [x])
    assert wide == pytest.approx(2 * SCALE, rel=1e-5) and whole == 2 and apart == 0
    weight = imported.program.state_dict["layer.weight"].abs()
    norms = 2 * SCALE * weight.square().sum(1).sqrt()  # of random signs by root mean square, of all the same at most
    assert 0.5 * norms.min() < layer <= 2 * SCALE * weight.sum(1).max()


def test_a_step_in_8_bits_agrees_and_three_do_not():
    ours, theirs = np.array([[7, 9]], "uint8"), np.array([[8, 9]], "uint8")
    assert compare(ours, theirs, allowed=2.0).holds and not compare(ours, theirs).holds
    assert not compare(ours + np.uint8(4), theirs, allowed=2.0).holds


def test_a_wrong_kernel_is_still_refused(monkeypatch):
    pack = type(DIRECT).pack

    def lost(kernel, form):
        data, *rest = pack(kernel, form)
        return [np.zeros_like(data), *rest]

    monkeypatch.setattr(type(DIRECT), "pack", lost)
    torch.manual_seed(0)
    with pytest.raises(CheckFailed, match=r"operator `(addmm|mm)`"):
        tvm_sched.compile(Net().eval(), torch.randn(3, 6))


def test_pairs_in_double_precision_equal_arithmetic(imported):
    x = np.random.default_rng(1).standard_normal((3, 6))
    given = Reference(imported.program, imported.signature)
    layer, wide, whole, apart = given.in_type([x.astype("float32")], torch.float64)
    x = x.astype("float32").astype("float64")
    q = np.clip(np.round(np.tanh(x) / SCALE) + 128, 0, 255)
    assert np.array_equal(whole, q) and whole.dtype == "uint8" and wide.dtype == "float64"
    np.testing.assert_allclose(wide, (q - 128) * SCALE, rtol=1e-14)
    state = imported.program.state_dict
    weight, bias = (state[f"layer.{name}"].detach().double().numpy() for name in ("weight", "bias"))
    np.testing.assert_allclose(layer, wide @ weight.T + bias, rtol=1e-12)
    np.testing.assert_allclose(apart, x + 1, rtol=1e-15)


def test_pairs_of_channels_in_double_precision():
    x, scales, zeros = torch.randn(4, 3, 2), torch.tensor([0.01, 0.02, 0.05]), torch.tensor([1, -2, 0])
    with PrecisePairs():
        q = qd.quantize_per_channel(x.double(), scales, zeros, 1, -128, 127, torch.int8)
        back = qd.dequantize_per_channel(q, scales, zeros, 1, -128, 127, torch.int8)
    scale, zero = scales.double().numpy()[:, None], zeros.numpy()[:, None]
    assert np.array_equal(q, np.clip(np.round(x.double().numpy() / scale) + zero, -128, 127))
    np.testing.assert_allclose(back, (q.numpy().astype("float64") - zero) * scale, rtol=1e-14)


def test_a_network_that_magnifies_steps_passes_as_far_as_pytorch_itself_is_from_float64():
    class Magnifies(nn.Module):
        """Every fraction of a step before the first rounding is many steps behind the second."""

        def forward(self, x):
            for offset in (0.3, 0.1, 0.0):
                whole = qd.quantize_per_tensor(torch.sin(1e4 * x) + offset, 0.01, 128, 0, 255, torch.uint8)
                x = qd.dequantize_per_tensor(whole, 0.01, 128, 0, 255, torch.uint8)
            return x + 0

    torch.manual_seed(0)
    x = torch.randn(2, 500)
    imported = torch_export.from_torch(Magnifies(), x)
    case = Case(imported, Reference(Magnifies(), imported.signature), [x.numpy()])
    (exact,), (theirs,) = case.in_float64, case.expected
    assert np.abs(exact - theirs).max() > 1e-2  # PyTorch's own
    assert found(case, 0, exact.astype("float32")).is_right
    assert not found(case, 0, exact.astype("float32") + 4 * np.abs(exact - theirs).max().astype("float32")).is_right
