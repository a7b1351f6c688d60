"""Batch norm in training by a kernel: what is left of a step once its convolutions leave the zeros out is, for networks
of small convolutions, batch norm first of all.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from tvm_sched.products import library
from tvm_sched.products.problem import Norm
from tvm_sched.products.product import NORMS, Product

FORWARD, BACKWARD = NORMS


def norm_of(shape: Sequence[int], dtype: torch.dtype) -> Norm:
    """What the batch norm of x [B, C, *] computes."""
    batch, channels, *pixels = shape
    return Norm(batch, channels, prod(pixels), str(dtype).removeprefix("torch."))


@torch.library.custom_op("subp::batch_norm", mutates_args=(), device_types="cpu")
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x [B, C, *] normalised by its own mean and variance, the mean [C], the biased variance [C]); all contiguous."""
    y, mean, variance = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, weight, weight))
    given = [each.contiguous() for each in (x, weight, bias)]
    of = Product(FORWARD, norm_of(x.shape, x.dtype), torch.get_num_threads())
    library.call(of, *given, eps, y, mean, variance)
    return y, mean, variance


@batch_norm.register_fake
def _(x, weight, bias, eps):
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )


@torch.library.custom_op("subp::batch_norm_backward", mutates_args=(), device_types="cpu")
def backward(
    x: Tensor, dy: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    dx, dweight, dbias = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, weight, weight))
    given = [each.contiguous() for each in (x, dy, weight)]
    of = Product(BACKWARD, norm_of(x.shape, x.dtype), torch.get_num_threads())
    library.call(of, *given, mean, (variance + eps).rsqrt(), dx, dweight, dbias)
    return dx, dweight, dbias


@backward.register_fake
def _(x, dy, weight, mean, variance, eps):
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, _, ctx.eps = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(x, weight, mean, variance)


def _backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, mean, variance = ctx.saved_tensors
    return *backward(x, dy, weight, mean, variance, ctx.eps), None


batch_norm.register_autograd(_backward, setup_context=_setup)
batch_norm.register_autocast("cpu", torch.float32)
