"""Work on constants leaves the call: what is computed once, and that every result is still there."""

import numpy as np
import torch
from torch import nn

import tvm_sched


class TwoOutputs(nn.Module):
    """The second output depends on weights alone, once the layer of zeros is gone."""

    def __init__(self):
        super().__init__()
        self.conv, self.zeros = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        nn.init.zeros_(self.zeros.weight)

    def forward(self, x):
        y = self.conv(x)
        return y, self.zeros(y)


def test_winograd_weights_are_prepared_and_both_outputs_are_right():
    torch.manual_seed(0)
    network, x = TwoOutputs().eval(), torch.randn(1, 16, 8, 8)
    artifact = tvm_sched.compile(network, x, threads=1)
    assert artifact.manifest["prepare"] == "prepare"
    with torch.no_grad():
        expected = network(x)
    for output, want in zip(artifact(x.numpy()), expected, strict=True):
        np.testing.assert_allclose(output, want.numpy(), rtol=0, atol=1e-5)


def test_without_work_on_constants_there_is_nothing_to_prepare():
    network, x = nn.Conv2d(16, 16, 1).eval(), torch.randn(1, 16, 4, 4)
    artifact = tvm_sched.compile(network, x, threads=1)
    assert artifact.manifest["prepare"] is None
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x.numpy()), network(x).numpy(), rtol=0, atol=1e-5)
