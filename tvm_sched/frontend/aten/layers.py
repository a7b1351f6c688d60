"""Matrix products, normalisations, softmax."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts
from tvm_sched.frontend.aten.pointwise import scaled
from tvm_sched.frontend.aten.reductions import moments
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

# Matrix products.


def product(builder: Builder, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """a @ b, the node's layer; integers too. An empty sum is 0."""
    dtype = computing(builder.dtype)
    if not shape_of(a)[-1] or not prod(builder.shape):
        return builder.broadcast(builder.number(0, dtype), builder.shape)
    a, b = builder.cast(a, dtype), builder.cast(b, dtype)
    return builder.emit_layer(rx.matmul(a, b, out_dtype=dtype))


@converts("mm", "bmm")
def mm(builder: Builder, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """a @ b."""
    return builder.cast(product(builder, a, b), builder.dtype)


@converts("addmm", "baddbmm")
def addmm(
    builder: Builder, x: relax.Expr, a: relax.Expr, b: relax.Expr, beta: float = 1, alpha: float = 1
) -> relax.Expr:
    """beta x + alpha a @ b."""
    made = scaled(builder, product(builder, a, b), alpha)
    if beta != 0:
        made = builder.emit(rx.add(scaled(builder, builder.cast(x, dtype_of(made)), beta), made))
    return builder.cast(builder.broadcast(made, builder.shape), builder.dtype)


# Normalisations.


def channels(builder: Builder, vector: relax.Expr | None, count: int, default: float, dtype: str) -> relax.Expr:
    """One number a channel, or the default."""
    if vector is None:
        return builder.constant(torch.full((count,), default, dtype=getattr(torch, dtype)))
    return builder.cast(vector, dtype)


@converts("_native_batch_norm_legit_no_training")
def batch_norm(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    mean: relax.Expr,
    variance: relax.Expr,
    _momentum: float,
    eps: float,
) -> tuple[relax.Expr | None, ...]:
    """(x with each channel scaled and shifted by running statistics; no mean and no deviation of its own)."""
    dtype = computing(dtype_of(x))
    count = shape_of(x)[1]
    gamma, beta = (channels(builder, each, count, default, dtype) for each, default in ((weight, 1), (bias, 0)))
    statistics = [builder.cast(each, dtype) for each in (mean, variance)]
    norm = rx.nn.batch_norm(
        builder.cast(x, dtype), gamma, beta, *statistics, axis=1, epsilon=eps, momentum=0.1, training=False
    )
    (made,) = builder.fields(builder.emit(norm), 1)
    rest = [torch.empty(meta.shape, dtype=meta.dtype) for meta in builder.meta[1:]]
    return builder.cast(made, dtype_of(x)), *(builder.constant(each) if reads(builder, 1, 2) else None for each in rest)


@converts("native_layer_norm")
def layer_norm(
    builder: Builder,
    x: relax.Expr,
    normalized_shape: Sequence[int],
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    eps: float,
) -> tuple[relax.Expr | None, ...]:
    """(x normalised over its last axes, scaled and shifted; the mean; 1 / deviation)."""
    dtype, shape = computing(dtype_of(x)), list(normalized_shape)
    gamma = builder.constant(torch.ones(shape)) if weight is None else weight
    beta = builder.constant(torch.zeros(shape)) if bias is None else bias
    norm = rx.nn.layer_norm(
        builder.cast(x, dtype),
        builder.cast(gamma, dtype),
        builder.cast(beta, dtype),
        axes=list(range(-len(shape), 0)),
        epsilon=eps,
    )
    made = builder.cast(builder.emit(norm), dtype_of(x))
    return made, *statistics(builder, builder.cast(x, dtype), list(range(-len(shape), 0)), eps)


@converts("native_group_norm")
def group_norm(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    _batch: int,
    count: int,
    _pixels: int,
    groups: int,
    eps: float,
) -> tuple[relax.Expr | None, ...]:
    """(x normalised over each group of channels, scaled and shifted; the mean; 1 / deviation)."""
    dtype = computing(dtype_of(x))
    gamma, beta = (channels(builder, each, count, default, dtype) for each, default in ((weight, 1), (bias, 0)))
    norm = rx.nn.group_norm(
        builder.cast(x, dtype),
        gamma,
        beta,
        num_groups=groups,
        channel_axis=1,
        axes=list(range(2, len(shape_of(x)))),
        epsilon=eps,
    )
    made, grouped = builder.cast(builder.emit(norm), dtype_of(x)), [shape_of(x)[0], groups, -1]
    return made, *statistics(builder, builder.reshape(builder.cast(x, dtype), grouped), [2], eps)


def reads(builder: Builder, *results: int) -> bool:
    """Whether somebody reads one of these results of the node's."""
    return any(user.args[1] in results and user.users for user in builder.node.users)


def statistics(builder: Builder, x: relax.Expr, axes: list[int], eps: float) -> tuple[relax.Expr | None, ...]:
    """The mean over axes and 1 / sqrt(variance + eps), where they are read."""
    if not reads(builder, 1, 2):
        return None, None
    middle, squares = moments(builder, x, axes)
    count = prod(shape_of(x)[axis] for axis in axes)
    spread = scaled(builder, squares, 1 / count)
    inverse = builder.emit(rx.rsqrt(builder.emit(rx.add(spread, builder.number(eps, dtype_of(x))))))
    pairs = zip((middle, inverse), builder.meta[1:], strict=True)
    return tuple(builder.reshape(made, meta.shape) for made, meta in pairs)


@converts("_softmax", "softmax.int")
def softmax(builder: Builder, x: relax.Expr, dim: int, *_: Any) -> relax.Expr:
    """exp(x) over its sum along an axis."""
    return along_axis(builder, rx.nn.softmax, x, dim)


@converts("_log_softmax", "log_softmax.int")
def log_softmax(builder: Builder, x: relax.Expr, dim: int, *_: Any) -> relax.Expr:
    """Its logarithm."""
    return along_axis(builder, rx.nn.log_softmax, x, dim)


def along_axis(builder: Builder, make: Any, x: relax.Expr, dim: int) -> relax.Expr:
    dtype = computing(builder.dtype)
    x = builder.cast(x, dtype)
    if not prod(shape_of(x)):
        return builder.cast(x, builder.dtype)
    if not shape_of(x):
        return builder.cast(builder.reshape(builder.emit(make(builder.reshape(x, [1]), 0)), []), builder.dtype)
    return builder.cast(builder.emit(make(x, dim % len(shape_of(x)))), builder.dtype)
