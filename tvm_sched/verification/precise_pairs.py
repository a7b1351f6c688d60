"""Quantise and dequantise in double precision, where PyTorch's operators take and give float32 alone.

q = clamp(round(x / scale) + zero_point)        x = (q - zero_point) * scale

with PrecisePairs():
    exact = program.module()(x.double())  # a quantised program, its weights and x in float64

Of a network that magnifies rounding one run in float32 may by chance be near that, and another far from it. How far
they may be show runs in which what is quantised is changed by as much as float32 rounds a sum, at random.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACE = "quantized_decomposed"
NOISE = 2.0**-22  # of a number: some roundings of float32


class PrecisePairs(TorchDispatchMode):
    """Values are quantised as they come, without being rounded to float32 before, and dequantised in float64; with a
    seed, changed by NOISE before they are quantised.
    """

    def __init__(self, seed: int | None = None):
        super().__init__()
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = func._schema.name.removeprefix(f"{NAMESPACE}::")
        if kind in ("quantize_per_tensor", "quantize_per_channel"):
            x, scale, zero_point, *axis, low, high, dtype = args
            scale, zero_point = (spread(each, x, *axis) for each in (scale, zero_point))
            x = x.double()
            if self.generator is not None:
                x = x * (1 + NOISE * (2 * torch.rand(x.shape, generator=self.generator, dtype=x.dtype) - 1))
            return (torch.round(x / scale) + zero_point).clamp(low, high).to(dtype)
        if kind in ("dequantize_per_tensor", "dequantize_per_channel"):
            q, scale, zero_point, *axis, _, _, _ = args
            scale, zero_point = (spread(each, q, *axis) for each in (scale, zero_point))
            return (q.double() - zero_point) * scale
        return func(*args, **(kwargs or {}))


def spread(numbers: Tensor | float | None, x: Tensor, axis: int | None = None) -> Tensor:
    """One number, or those of the positions of an axis, in float64 and as they broadcast to `x`; None is zero."""
    wide = torch.as_tensor(0.0 if numbers is None else numbers, dtype=torch.float64)
    return wide.reshape(()) if axis is None else wide.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
