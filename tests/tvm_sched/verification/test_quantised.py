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
from tvm_sched.verification.comparison import compare

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
