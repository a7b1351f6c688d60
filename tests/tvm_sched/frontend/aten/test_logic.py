"""NaN is unlike itself, also where TVM's simplifier would not look."""

import pytest
import torch
from torch import nn

import tvm_sched


class Alike(nn.Module):
    def forward(self, x):
        y = x + 1
        return x.isnan(), x != x, x == x, x <= x, x < x, y >= y, torch.where(x.isnan(), torch.zeros_like(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_a_number_beside_itself(dtype):
    x = torch.tensor([1, float("nan"), 2, float("inf"), -0.0]) if dtype.is_floating_point else torch.tensor([1, 0, -2])
    x = x.to(dtype)
    for made, wanted in zip(tvm_sched.compile(Alike(), x, threads=1, check=False)(x), Alike()(x), strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=0)
