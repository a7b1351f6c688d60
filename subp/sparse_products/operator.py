"""`block_conv2d`: PyTorch's conv2d of a weight whose kept blocks are named, with its gradients.

Three operators of torch.library, so that torch.compile keeps them whole; under autocast they compute in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from tvm_sched.products import library
from tvm_sched.products.problem import Problem
from tvm_sched.products.product import PRODUCTS, Product

KINDS = PRODUCTS  # the order of `sparse` everywhere: output, gradients of input and of weight


def problem_of(
    shape: Sequence[int], weight: Tensor, index: Tensor, geometry: Sequence[Sequence[int]], groups: int
) -> Problem:
    """What conv2d(x [B, C, H, W] of that shape, weight [O, C / groups, kh, kw]) computes; index: [G, K]; geometry:
    stride, padding, dilation.
    """
    stride, padding, dilation = ((int(rows), int(columns)) for rows, columns in geometry)
    batch, channels, height, width = map(int, shape)
    return Problem(
        batch=batch,
        channels=channels,
        outputs=weight.shape[0],
        image=(height, width),
        kernel=(weight.shape[2], weight.shape[3]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        n=weight.shape[0] // index.shape[0],
        dtype=str(weight.dtype).removeprefix("torch."),
    )


def product(kind: str, problem: Problem, index: Tensor, operands: Sequence[Tensor], result: Tensor) -> Tensor:
    """Computes one of the three into `result`, which is contiguous and returned. Raises TypeError for tensors of other
    dtypes than the problem's, and an index of another one than int32.
    """
    found = [str(tensor.dtype).removeprefix("torch.") for tensor in (*operands, result, index)]
    if found != [problem.dtype] * (len(operands) + 1) + ["int32"]:
        raise TypeError(f"products of {problem.dtype} with an index of int32 were given {', '.join(found)}")
    given = [tensor.contiguous() for tensor in (*operands, index)]
    library.call(Product(kind, problem, torch.get_num_threads()), *given, index.shape[1], result)
    return result


@torch.library.custom_op("subp::block_conv2d", mutates_args=(), device_types="cpu")
def block_conv2d(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    sparse: Sequence[int],
) -> Tensor:
    """conv2d of x [B, C, H, W] and weight [O, C / groups, kh, kw], which is zero but in the blocks of `index`.

    index:   int32 [G, K], sorted in each row: of each O / G outputs, the inputs (of their group) that are kept
    sparse:  1 for each of KINDS that leaves the zeros out, 0 where PyTorch computes. The weight's gradient without them
             is zero in pruned blocks, PyTorch's is not

    Raises UserError where `tvm_sched.products.product.why_not` has a reason.
    """
    if not sparse[0]:
        return torch.conv2d(x, weight, None, stride, padding, dilation, groups)
    problem = problem_of(x.shape, weight, index, (stride, padding, dilation), groups)
    result = x.new_empty(problem.batch, problem.outputs, *problem.output)
    return product(KINDS[0], problem, index, (x, weight), result)


@block_conv2d.register_fake
def _(x, weight, index, stride, padding, dilation, groups, sparse):
    return torch.conv2d(x, weight, None, stride, padding, dilation, groups)


@torch.library.custom_op("subp::block_conv2d_input_gradient", mutates_args=(), device_types="cpu")
def input_gradient(
    dy: Tensor,
    weight: Tensor,
    index: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    sparse: bool,
) -> Tensor:
    """The gradient of x, of that shape, by that of the output, dy [B, O, H', W']."""
    x = dy.new_empty(shape)
    if not sparse:
        return conv2d_input(shape, weight, dy, stride, padding, dilation, groups)
    problem = problem_of(x.shape, weight, index, (stride, padding, dilation), groups)
    return product(KINDS[1], problem, index, (dy, weight), x)


@input_gradient.register_fake
def _(dy, weight, index, shape, stride, padding, dilation, groups, sparse):
    return dy.new_empty(shape)


@torch.library.custom_op("subp::block_conv2d_weight_gradient", mutates_args=(), device_types="cpu")
def weight_gradient(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    index: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    sparse: bool,
) -> Tensor:
    """The gradient of the weight: with `sparse` of its kept blocks, zero in the others."""
    if not sparse:
        return conv2d_weight(x, weight.shape, dy, stride, padding, dilation, groups)
    result = torch.empty_like(weight, memory_format=torch.contiguous_format)
    problem = problem_of(x.shape, weight, index, (stride, padding, dilation), groups)
    return product(KINDS[2], problem, index, (x, dy), result)


@weight_gradient.register_fake
def _(x, dy, weight, index, stride, padding, dilation, groups, sparse):
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, index, *ctx.options = inputs
    ctx.save_for_backward(x, weight, index)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, index = ctx.saved_tensors
    *conv, sparse = ctx.options
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = input_gradient(dy, weight, index, x.shape, *conv, bool(sparse[1]))
    if ctx.needs_input_grad[1]:
        dw = weight_gradient(x, dy, weight, index, *conv, bool(sparse[2]))
    return dx, dw, *[None] * 6


block_conv2d.register_autograd(_backward, setup_context=_setup)
block_conv2d.register_autocast("cpu", torch.float32)
