"""Convolutions, matrix products, normalisations, softmax."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, converts
from tvm_sched.frontend.aten.pointwise import scaled
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

HALVES = ("float16", "bfloat16")
CONVOLUTIONS = {1: rx.nn.conv1d, 2: rx.nn.conv2d, 3: rx.nn.conv3d}


def computing(dtype: str) -> str:
    """The dtype that products of this one are summed in."""
    return "float32" if dtype in HALVES else dtype


# Convolutions.


@converts("convolution")
def convolution(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr,
    bias: relax.Expr | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> relax.Expr:
    """Of one to three spatial axes: x `[B, C, *spatial]`, or without the batch."""
    rank = len(shape_of(weight)) - 2
    dtype = computing(builder.dtype)
    stride, padding, dilation, output_padding = (
        [int(each) for each in list(values) * (rank if len(values) == 1 else 1)]
        for values in (stride, padding, dilation, output_padding)
    )
    x = builder.cast(x, dtype)
    if not prod(shape_of(x)) or not prod(builder.shape):
        raise NotImplementedError("a convolution of an empty tensor")
    if len(shape_of(x)) == rank + 1:
        x = builder.reshape(x, [1, *shape_of(x)])
    weight = builder.cast(weight, dtype)
    if transposed:
        made = transposed_convolution(builder, x, weight, stride, padding, dilation, output_padding, groups)
    else:
        both = {"strides": stride, "padding": [*padding, *padding], "dilation": dilation, "groups": groups}
        made = builder.emit_layer(CONVOLUTIONS[rank](x, weight, out_dtype=dtype, **both))
    if bias is not None:
        channels = builder.reshape(builder.cast(bias, dtype), [1, -1, *[1] * rank])
        made = builder.emit(rx.add(made, channels))
    return builder.cast(builder.reshape(made, builder.shape), builder.dtype)


def transposed_convolution(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> relax.Expr:
    """As a convolution of the image with `stride - 1` zeros between its pixels: the weight `[C, O / groups, *kernel]`
    becomes `[O, C / groups, *kernel]`, mirrored.
    """
    kernel = shape_of(weight)[2:]
    spatial = list(range(2, 2 + len(kernel)))
    for axis, step in zip(spatial, stride, strict=True):
        x = spread(builder, x, axis, step)
    margins = [
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, p, d, extra in zip(kernel, padding, dilation, output_padding, strict=True)
    ]
    for axis, (before, after) in zip(spatial, margins, strict=True):
        if before < 0 or after < 0:  # more padding than the kernel reaches: cut
            begin, end = max(-before, 0), shape_of(x)[axis] - max(-after, 0)
            x = builder.emit(rx.strided_slice(x, axes=[axis], begin=[begin], end=[end]))
    pads = [max(before, 0) for before, _ in margins] + [max(after, 0) for _, after in margins]
    return builder.emit_layer(
        CONVOLUTIONS[len(kernel)](
            x,
            turned(builder, weight, groups),
            strides=[1] * len(kernel),
            padding=pads,
            dilation=list(dilation),
            groups=groups,
            out_dtype=dtype_of(x),
        )
    )


def turned(builder: Builder, weight: relax.Expr, groups: int) -> relax.Expr:
    """The weight `[C, O / groups, *kernel]` of a transposed convolution as `[O, C / groups, *kernel]`, mirrored."""
    channels, outputs, *kernel = shape_of(weight)
    apart, joined = [groups, channels // groups, outputs, *kernel], [groups * outputs, channels // groups, *kernel]
    spatial = list(range(2, 2 + len(kernel)))

    def of_constant(source: torch.Tensor) -> torch.Tensor:
        return source.reshape(apart).transpose(1, 2).reshape(joined).flip(spatial)

    if (known := builder.known(weight)) is not None:
        return builder.derived(known, "turned", groups, make=of_constant)
    swapped = rx.permute_dims(builder.reshape(weight, apart), [0, 2, 1, *range(3, 3 + len(kernel))])
    weight = builder.reshape(builder.emit(swapped), joined)
    for axis, extent in zip(spatial, kernel, strict=True):
        weight = builder.emit(rx.flip(weight, axis)) if extent > 1 else weight
    return weight


def spread(builder: Builder, x: relax.Expr, axis: int, step: int) -> relax.Expr:
    """`step - 1` zeros between neighbours along an axis."""
    shape = list(shape_of(x))
    if step == 1 or shape[axis] == 1:
        return x
    apart = builder.reshape(x, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    widths = [0] * (2 * (axis + 1)) + [0, step - 1] + [0] * (2 * (len(shape) - axis - 1))
    padded = builder.emit(rx.nn.pad(apart, widths, "constant", 0.0))
    joined = builder.reshape(padded, [*shape[:axis], shape[axis] * step, *shape[axis + 1 :]])
    return builder.emit(rx.strided_slice(joined, axes=[axis], begin=[0], end=[(shape[axis] - 1) * step + 1]))


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
    """(x with each channel scaled and shifted, ...), from running statistics."""
    dtype = computing(dtype_of(x))
    count = shape_of(x)[1]
    gamma, beta = (channels(builder, each, count, default, dtype) for each, default in ((weight, 1), (bias, 0)))
    statistics = [builder.cast(each, dtype) for each in (mean, variance)]
    norm = rx.nn.batch_norm(
        builder.cast(x, dtype), gamma, beta, *statistics, axis=1, epsilon=eps, momentum=0.1, training=False
    )
    made = builder.emit(relax.TupleGetItem(builder.emit(norm), 0))
    return builder.cast(made, dtype_of(x)), None, None


@converts("native_layer_norm")
def layer_norm(
    builder: Builder,
    x: relax.Expr,
    normalized_shape: Sequence[int],
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    eps: float,
) -> tuple[relax.Expr | None, ...]:
    """(x normalised over its last axes, scaled and shifted, mean and 1 / deviation unread)."""
    unread(builder, (1, 2))
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
    return builder.cast(builder.emit(norm), dtype_of(x)), None, None


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
    """(x normalised over each group of channels, scaled and shifted, ...)."""
    unread(builder, (1, 2))
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
    return builder.cast(builder.emit(norm), dtype_of(x)), None, None


def unread(builder: Builder, results: Sequence[int]) -> None:
    """Raises NotImplementedError where a node's results that are made for gradients only are read."""
    if any(user.args[1] in results and user.users for user in builder.node.users):
        raise NotImplementedError("its statistics, which are made for training, are read")


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
