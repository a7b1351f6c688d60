"""Constants as arrays and back: values in any order and of any dtype, without copies that nobody needs."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax

import tvm_sched
from tvm_sched.passes.graph.relax_tools import as_array, constant


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_there_and_back(shape, dtype):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype).T
    back = as_array(constant(array))
    assert back.dtype == array.dtype and np.array_equal(back, array)
    assert back.flags.c_contiguous


def test_an_array_that_changes_afterwards_does_not_change_the_constant():
    array = np.zeros(4, "float32")
    made = constant(array)
    array += 1
    assert not as_array(made).any()


def test_the_value_is_a_view_that_cannot_be_written_to():
    made = constant(np.zeros(4, "float32"))
    assert np.may_share_memory(as_array(made), as_array(made))
    with pytest.raises(ValueError, match="read-only"):
        as_array(made)[0] = 1


def test_what_is_no_constant_has_no_value():
    assert as_array(relax.Var("x", relax.TensorType((4,), "float32"))) is None


def test_a_network_with_bfloat16_in_the_middle_compiles():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)
            self.register_buffer("scale", torch.linspace(-1, 1, 16, dtype=torch.bfloat16))

        def forward(self, x):
            y = self.conv(x).mean((2, 3)).bfloat16()
            return (y * self.scale + self.scale).float()

    torch.manual_seed(0)
    network, x = Mixed().eval(), torch.randn(1, 3, 8, 8)
    y = tvm_sched.compile(network, x, threads=1)(x.numpy())
    np.testing.assert_allclose(y, network(x).detach().numpy(), atol=2**-7)  # half a step of bfloat16 below 4
