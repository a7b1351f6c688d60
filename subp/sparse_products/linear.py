"""`block_linear`: PyTorch's linear of a weight whose kept blocks are named, with its gradients, of rows as they lie.

Operators of torch.library as those of `operator` are, and the same products, of which the pixels are rows.
"""

from collections.abc import Sequence
from functools import cache
from math import gcd, isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from subp.sparse_products.operator import KINDS, product
from tvm_sched.products.problem import Problem

LEAST_ROWS, MOST_ROWS = 64, 512  # that are one piece of work, where the number of rows has such a divisor


def problem_of(rows: int, inputs: int, outputs: int, index: Tensor, dtype: torch.dtype) -> Problem:
    """What linear(x [rows, inputs], weight [outputs, inputs]) computes: images of one row of pixels, as many as
    threads can share; index: [G, K].
    """
    count = pieces(rows, torch.get_num_threads())
    return Problem(
        batch=count,
        channels=inputs,
        outputs=outputs,
        image=(1, rows // count),
        n=outputs // len(index),
        dtype=str(dtype).removeprefix("torch."),
        turned=True,
    )


@cache
def pieces(rows: int, threads: int) -> int:
    """Of equally many rows, at least one: so many that threads share them where that can be, then of the size that
    caches like, then few.
    """

    def badness(count: int) -> tuple[bool, bool, int]:
        return gcd(count, threads) != threads, not LEAST_ROWS <= rows // count <= MOST_ROWS, count

    small = [count for count in range(1, isqrt(rows) + 1) if rows % count == 0]
    return min((each for count in small for each in (count, rows // count)), key=badness)


@torch.library.custom_op("subp::block_linear", mutates_args=(), device_types="cpu")
def _block_linear(x: Tensor, weight: Tensor, index: Tensor, sparse: Sequence[int]) -> Tensor:
    """Of x [rows, I]; else as `block_linear`."""
    if not sparse[0]:
        return functional.linear(x, weight)
    problem = problem_of(len(x), x.shape[1], len(weight), index, weight.dtype)
    return product(KINDS[0], problem, index, (x, weight), x.new_empty(len(x), len(weight)))


@_block_linear.register_fake
def _(x, weight, index, sparse):
    return x.new_empty(len(x), len(weight))


@torch.library.custom_op("subp::block_linear_input_gradient", mutates_args=(), device_types="cpu")
def input_gradient(dy: Tensor, weight: Tensor, index: Tensor, sparse: bool) -> Tensor:
    """The gradient of x by that of the output, dy [rows, O]."""
    if not sparse:
        return dy @ weight
    problem = problem_of(len(dy), weight.shape[1], len(weight), index, weight.dtype)
    return product(KINDS[1], problem, index, (dy, weight), dy.new_empty(len(dy), weight.shape[1]))


@input_gradient.register_fake
def _(dy, weight, index, sparse):
    return dy.new_empty(len(dy), weight.shape[1])


@torch.library.custom_op("subp::block_linear_weight_gradient", mutates_args=(), device_types="cpu")
def weight_gradient(x: Tensor, dy: Tensor, index: Tensor, sparse: bool) -> Tensor:
    """The gradient of the weight: with `sparse` of its kept blocks, zero in the others."""
    if not sparse:
        return dy.t() @ x
    problem = problem_of(len(x), x.shape[1], dy.shape[1], index, x.dtype)
    return product(KINDS[2], problem, index, (x, dy), x.new_empty(dy.shape[1], x.shape[1]))


@weight_gradient.register_fake
def _(x, dy, index, sparse):
    return x.new_empty(dy.shape[1], x.shape[1])


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, index, ctx.sparse = inputs
    ctx.save_for_backward(x, weight, index)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, index = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = input_gradient(dy, weight, index, bool(ctx.sparse[1]))
    if ctx.needs_input_grad[1]:
        dw = weight_gradient(x, dy, index, bool(ctx.sparse[2]))
    return dx, dw, None, None


_block_linear.register_autograd(_backward, setup_context=_setup)
_block_linear.register_autocast("cpu", torch.float32)


def block_linear(x: Tensor, weight: Tensor, index: Tensor, sparse: Sequence[int]) -> Tensor:
    """linear of x [*, I] and weight [O, I], which is zero but in the blocks of `index`, int32 [G, K], sorted in each
    row; `sparse` as for `block_conv2d`.
    """
    return _block_linear(x.flatten(0, -2), weight, index, sparse).view(*x.shape[:-1], len(weight))
