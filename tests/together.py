"""Many functions of the same inputs, compiled as one network: what each gives is held against PyTorch."""

import numpy as np
import torch
from torch import nn

import tvm_sched


class Together(nn.Module):
    """The results of all functions."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, *inputs):
        return tuple(function(*inputs) for function in self.functions)


def require_pytorchs(functions, *inputs, tolerance=1e-5):
    """Compiles the functions (name -> function of the inputs, giving a tensor or several) together, and compares shape,
    dtype and numbers of each: fractions within the tolerance times the largest, the rest exactly.
    """
    network = Together(list(functions.values()))
    artifact = tvm_sched.compile(network, inputs, threads=1, check=False)
    with torch.no_grad():
        wanted = network(*inputs)
    for name, made, want in zip(functions, artifact(*inputs), wanted, strict=True):
        made, want = (each if isinstance(each, (tuple, list)) else [each] for each in (made, want))
        for one, other in zip(made, want, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype), name
            if other.is_floating_point():
                finite = other[other.isfinite()].double().abs()
                limit = tolerance * max(1.0, float(finite.max()) if finite.numel() else 1.0)
                np.testing.assert_allclose(
                    one.double().numpy(), other.double().numpy(), rtol=0, atol=limit, err_msg=name
                )
            else:
                assert torch.equal(one, other), name
