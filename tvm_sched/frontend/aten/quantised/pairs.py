"""Quantise and dequantise: `quantized_decomposed`'s operators, which torchao's `pt2e` writes, and ONNX's.

They become `relax.quantize` and `relax.dequantize` of constant scales and zero points. A zero point of the result's own
type tells ONNX's quantisation, which divides by the scale; PyTorch's multiplies by its reciprocal, and has int32.
"""

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, converts, name_of_dtype
from tvm_sched.passes.graph.relax_tools import constant, shape_of

EIGHT_BITS = ("int8", "uint8")
ZERO_POINT = "int32"
DYNAMIC = "a scale that is computed at each call (dynamic quantisation), where this compiler takes calibrated ones"


def constant_of(builder: Builder, value: relax.Expr | float | int | None, dtype: str, count: int) -> relax.Expr:
    """A scale or zero point, of a tensor or of each of `count` channels (0 for the former); None stands for zeros."""
    if isinstance(value, relax.Expr):
        tensor = builder.known(value)
        if tensor is None:
            raise NotImplementedError(DYNAMIC)
        value = tensor.numpy()
    array = np.asarray(0 if value is None else value, dtype)
    return constant(array.reshape(()) if not count else np.broadcast_to(array, (count,)))


def quantised(
    builder: Builder,
    x: relax.Expr,
    scale: relax.Expr | float,
    zero_point: relax.Expr | int | None,
    limits: tuple[int, int],
    dtype: torch.dtype,
    axis: int | None = None,
    zero_dtype: str = ZERO_POINT,
) -> relax.Expr:
    """clamp(round(x / scale) + zero point), halves to even; of each channel where there is an axis."""
    name = name_of_dtype(dtype)
    if name not in EIGHT_BITS:
        raise NotImplementedError(f"quantised numbers of {name}, where this compiler takes int8 and uint8")
    count = 0 if axis is None else shape_of(x)[axis]
    made = builder.emit(
        rx.quantize(
            builder.cast(x, "float32"),
            constant_of(builder, scale, "float32", count),
            constant_of(builder, zero_point, zero_dtype, count),
            axis=-1 if axis is None else axis % len(shape_of(x)),
            out_dtype=name,
        )
    )
    whole = torch.iinfo(dtype)
    low, high = limits
    return made if (low, high) == (whole.min, whole.max) else builder.emit(rx.clip(made, low, high))


def dequantised(
    builder: Builder,
    q: relax.Expr,
    scale: relax.Expr | float,
    zero_point: relax.Expr | int | None,
    axis: int | None = None,
) -> relax.Expr:
    """(q - zero point) * scale, in float32."""
    count = 0 if axis is None else shape_of(q)[axis]
    call = rx.dequantize(
        q,
        constant_of(builder, scale, "float32", count),
        constant_of(builder, zero_point, ZERO_POINT, count),
        axis=-1 if axis is None else axis % len(shape_of(q)),
        out_dtype="float32",
    )
    return builder.cast(builder.emit(call), builder.dtype)


@converts("quantize_per_tensor")
def quantize_per_tensor(
    builder: Builder,
    x: relax.Expr,
    scale: relax.Expr | float,
    zero_point: relax.Expr | int,
    low: relax.Expr | int,
    high: relax.Expr | int,
    dtype: torch.dtype,
) -> relax.Expr:
    """With one scale."""
    limits = int(constant_number(builder, low)), int(constant_number(builder, high))
    return quantised(builder, x, scale, zero_point, limits, dtype)


@converts("dequantize_per_tensor")
def dequantize_per_tensor(
    builder: Builder, q: relax.Expr, scale: relax.Expr | float, zero_point: relax.Expr | int, *_: object
) -> relax.Expr:
    """With one scale."""
    return dequantised(builder, q, scale, zero_point)


@converts("quantize_per_channel")
def quantize_per_channel(
    builder: Builder,
    x: relax.Expr,
    scales: relax.Expr,
    zero_points: relax.Expr,
    axis: int,
    low: int,
    high: int,
    dtype: torch.dtype,
) -> relax.Expr:
    """With a scale a channel."""
    return quantised(builder, x, scales, zero_points, (low, high), dtype, axis)


@converts("dequantize_per_channel")
def dequantize_per_channel(
    builder: Builder, q: relax.Expr, scales: relax.Expr, zero_points: relax.Expr | None, axis: int, *_: object
) -> relax.Expr:
    """With a scale a channel."""
    return dequantised(builder, q, scales, zero_points, axis)


@converts("choose_qparams", "choose_qparams_symmetric", "choose_qparams_per_token", "quantize_per_token")
def dynamic(builder: Builder, *_: object) -> relax.Expr:
    """What dynamic quantisation needs."""
    raise NotImplementedError(DYNAMIC)


def constant_number(builder: Builder, value: relax.Expr | float) -> float:
    """A number, or that of a constant of rank 0."""
    if not isinstance(value, relax.Expr):
        return value
    known = builder.known(value)
    if known is None:
        raise NotImplementedError(DYNAMIC)
    return known.item()
