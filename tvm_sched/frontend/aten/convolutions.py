"""Convolutions of one to three spatial axes, transposed ones as convolutions."""

from collections.abc import Sequence
from math import prod

import torch
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts
from tvm_sched.frontend.aten.views import flipped, sliced
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

CONVOLUTIONS = {1: rx.nn.conv1d, 2: rx.nn.conv2d, 3: rx.nn.conv3d}


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
    if not transposed:
        made = convolved(builder, x, weight, [*padding, *padding], groups, stride, dilation)
    elif max(stride) > 1 and max(dilation) == 1:
        made = phase_by_phase(builder, x, weight, stride, padding, groups, builder.shape[-rank:])
    else:
        made = mirrored(builder, x, weight, stride, padding, dilation, output_padding, groups)
    if bias is not None:
        channels = builder.reshape(builder.cast(bias, dtype), [1, -1, *[1] * rank])
        made = builder.emit(rx.add(made, channels))
    return builder.cast(builder.reshape(made, builder.shape), builder.dtype)


def convolved(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr,
    margins: Sequence[int],
    groups: int,
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> relax.Expr:
    """The node's layer; `margins` before each axis, then behind each."""
    rank = len(shape_of(weight)) - 2
    options = {"strides": list(stride) or [1] * rank, "dilation": list(dilation) or [1] * rank, "groups": groups}
    conv = CONVOLUTIONS[rank](x, weight, padding=list(margins), out_dtype=dtype_of(x), **options)
    return builder.emit_layer(conv)


def phase_by_phase(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    made: Sequence[int],
) -> relax.Expr:
    """A transposed convolution as a convolution that gives each output of a stride's step in a channel of its own, so
    that no zero between pixels is multiplied. Along one axis, with u = s q + phase:

        y[u - padding] = sum_t w[phase + s t] x[q - t]

    The outputs of a pixel are then put beside each other, and the padding is cut off.
    """
    outputs, kernel, rank = shape_of(weight)[1], shape_of(weight)[2:], len(stride)
    taps = [-(-size // step) for size, step in zip(kernel, stride, strict=True)]
    pixels = [-(-(count + before) // step) for count, before, step in zip(made, padding, stride, strict=True)]
    behind = [max(count - extent, 0) for count, extent in zip(pixels, shape_of(x)[2:], strict=True)]
    phases = by_phase(builder, weight, stride, groups)
    y = convolved(builder, x, phases, [*(count - 1 for count in taps), *behind], groups)
    for axis, count in enumerate(pixels, 2):
        y = sliced(builder, y, axis, 0, count)
    batch = shape_of(x)[0]
    # [B, g, *phases, O / g, *pixels] -> [B, g, O / g, (pixels, phases) axis by axis]
    y = builder.reshape(y, [batch, groups, *stride, outputs, *pixels])
    order = [0, 1, 2 + rank, *(at for axis in range(rank) for at in (3 + rank + axis, 2 + axis))]
    y = builder.emit(rx.permute_dims(y, order))
    y = builder.reshape(y, [batch, groups * outputs, *(c * s for c, s in zip(pixels, stride, strict=True))])
    for axis, (before, count) in enumerate(zip(padding, made, strict=True), 2):
        y = sliced(builder, y, axis, before, before + count)
    return y


def by_phase(builder: Builder, weight: relax.Expr, stride: Sequence[int], groups: int) -> relax.Expr:
    """The weight `[C, O / groups, *kernel]` as `[groups phases O / groups, C / groups, *taps]`, taps mirrored; the
    kernel is filled up to whole steps with zeros.
    """
    channels, outputs, *kernel = shape_of(weight)
    rank = len(kernel)
    taps = [-(-size // step) for size, step in zip(kernel, stride, strict=True)]
    ends = [t * s - k for t, s, k in zip(taps, stride, kernel, strict=True)]
    apart = [groups, channels // groups, outputs, *(n for both in zip(taps, stride, strict=True) for n in both)]
    order = [0, *range(4, 4 + 2 * rank, 2), 2, 1, *range(3, 3 + 2 * rank, 2)]
    joined = [groups * prod(stride) * outputs, channels // groups, *taps]
    spatial = list(range(2, 2 + rank))

    def of_constant(source: torch.Tensor) -> torch.Tensor:
        widths = [width for end in reversed(ends) for width in (0, end)]
        whole = torch.nn.functional.pad(source, widths).reshape(apart)
        return whole.permute(order).reshape(joined).flip(spatial)

    if (known := builder.known(weight)) is not None:
        return builder.derived(known, "by phase", groups, *stride, make=of_constant)
    if any(ends):
        weight = builder.emit(rx.nn.pad(weight, [0] * 4 + [width for end in ends for width in (0, end)]))
    weight = builder.reshape(builder.emit(rx.permute_dims(builder.reshape(weight, apart), order)), joined)
    return flipped(builder, weight, spatial)


def mirrored(
    builder: Builder,
    x: relax.Expr,
    weight: relax.Expr,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> relax.Expr:
    """A transposed convolution, dilated or of stride 1, as one of the image with `stride - 1` zeros between its pixels:
    the weight `[C, O / groups, *kernel]` becomes `[O, C / groups, *kernel]`, mirrored.
    """
    kernel = shape_of(weight)[2:]
    spatial = list(range(2, 2 + len(kernel)))
    for axis, step in zip(spatial, stride, strict=True):
        x = spread(builder, x, axis, step)
    margins = [
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, p, d, extra in zip(kernel, padding, dilation, output_padding, strict=True)
    ]
    for axis, (before, after) in zip(spatial, margins, strict=True):  # more padding than the kernel reaches: cut
        x = sliced(builder, x, axis, max(-before, 0), shape_of(x)[axis] - max(-after, 0))
    widths = [max(before, 0) for before, _ in margins] + [max(after, 0) for _, after in margins]
    return convolved(builder, x, turned(builder, weight, groups), widths, groups, dilation=dilation)


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
    return flipped(builder, builder.reshape(builder.emit(swapped), joined), spatial)


def spread(builder: Builder, x: relax.Expr, axis: int, step: int) -> relax.Expr:
    """`step - 1` zeros between neighbours along an axis."""
    shape = list(shape_of(x))
    if step == 1 or shape[axis] == 1:
        return x
    apart = builder.reshape(x, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    widths = [0] * (2 * (axis + 1)) + [0, step - 1] + [0] * (2 * (len(shape) - axis - 1))
    padded = builder.emit(rx.nn.pad(apart, widths, "constant", 0.0))
    joined = builder.reshape(padded, [*shape[:axis], shape[axis] * step, *shape[axis + 1 :]])
    return sliced(builder, joined, axis, 0, (shape[axis] - 1) * step + 1)
