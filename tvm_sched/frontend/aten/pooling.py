"""Pools over windows of one to three spatial axes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts, metas
from tvm_sched.frontend.aten.resampling import Table, resampled
from tvm_sched.frontend.aten.views import sliced
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

AVERAGE = {1: rx.nn.avg_pool1d, 2: rx.nn.avg_pool2d, 3: rx.nn.avg_pool3d}
LARGEST = {1: rx.nn.max_pool1d, 2: rx.nn.max_pool2d, 3: rx.nn.max_pool3d}


def averaging(dtype: str) -> str:
    """The dtype that means of numbers of this one are computed in."""
    return "float64" if dtype in ("int32", "int64") else computing(dtype)


def every(values: Any, rank: int) -> list[int]:
    """One number an axis."""
    values = [values] if isinstance(values, int) else [int(each) for each in values]
    return values * rank if len(values) == 1 else values


def batched(builder: Builder, x: relax.Expr, rank: int) -> relax.Expr:
    """`[B, C, *spatial]`, of x with or without a batch."""
    shape = shape_of(x)
    return x if len(shape) == rank + 2 else builder.reshape(x, [1, *shape])


def margins(
    spatial: Sequence[int], made: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """How far the windows reach over the end of each axis."""
    reach = zip(spatial, made, kernel, stride, padding, strict=True)
    return [max((count - 1) * step + size - extent - before, 0) for extent, count, size, step, before in reach]


@converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    builder: Builder,
    x: relax.Expr,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    _ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> relax.Expr:
    """The mean of each window. A window at the end counts what lies in the image and its padding, not what only
    rounding up adds (PyTorch's documentation of AvgPool2d).
    """
    rank = int(builder.node.target._schema.name[-2])
    kernel, padding = every(kernel_size, rank), every(padding, rank)
    stride = every(stride, rank) if stride else kernel
    dtype = dtype_of(x)
    x = batched(builder, builder.cast(x, averaging(dtype)), rank)
    spatial, made = shape_of(x)[2:], builder.shape[-rank:]
    after = margins(spatial, made, kernel, stride, padding)
    rounded_up = any(end > before for end, before in zip(after, padding, strict=True))
    even = divisor_override is None and not rounded_up
    if even and (count_include_pad or not any(padding)):
        pool = AVERAGE[rank](x, kernel, stride, [*padding, *padding], count_include_pad=True)
        pooled = cut(builder, builder.emit(pool), made)
    else:
        counts = window_counts(spatial, made, kernel, stride, padding, count_include_pad)
        divisors = torch.full_like(counts, divisor_override) if divisor_override else counts
        widths = [0, 0, 0, 0, *(width for both in zip(padding, after, strict=True) for width in both)]
        wide = builder.emit(rx.nn.pad(x, widths, "constant", 0.0))
        means = cut(builder, builder.emit(AVERAGE[rank](wide, kernel, stride, [0] * 2 * rank)), made)
        factor = builder.constant((prod(kernel) / divisors).to(getattr(torch, dtype_of(x))))
        pooled = builder.emit(rx.multiply(means, factor))
    return builder.cast(builder.reshape(pooled, builder.shape), dtype)


def cut(builder: Builder, x: relax.Expr, spatial: Sequence[int]) -> relax.Expr:
    """The first windows of each axis."""
    for axis, extent in enumerate(spatial, 2):
        x = sliced(builder, x, axis, 0, extent)
    return x


def window_counts(
    spatial: Sequence[int],
    made: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    padded: bool,
) -> torch.Tensor:
    """How many numbers each window has, float64 `[*made]`: those of the image, and with `padded` of its padding."""
    counts = torch.ones((), dtype=torch.float64)
    for extent, count, size, step, before in zip(spatial, made, kernel, stride, padding, strict=True):
        start = torch.arange(count) * step - before
        least, most = (-before, extent + before) if padded else (0, extent)
        along = (start + size).clamp(max=most) - start.clamp(min=least)
        counts = counts[..., None] * along
    return counts


@converts("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    builder: Builder, x: relax.Expr, kernel_size: Any, stride: Any, padding: Any, dilation: Any, _ceil_mode: bool
) -> relax.Expr:
    """The largest number of each window."""
    shape, rank = (
        list(metas(builder.meta)[0].shape),
        int(builder.node.target._schema.name.removesuffix("_with_indices")[-2]),
    )
    kernel, padding, dilation = (every(values, rank) for values in (kernel_size, padding, dilation))
    stride = every(stride, rank) if stride else kernel
    x = batched(builder, x, rank)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    after = margins(shape_of(x)[2:], shape[-rank:], reach, stride, padding)
    after = [max(end, before) for end, before in zip(after, padding, strict=True)]
    pool = LARGEST[rank](x, kernel, stride, [*padding, *after], dilation)
    return builder.reshape(cut(builder, builder.emit(pool), shape[-rank:]), shape)


@converts("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def adaptive_avg_pool(builder: Builder, x: relax.Expr, output_size: Sequence[int]) -> relax.Expr:
    """The means of windows that cover each axis evenly: from floor(i in / out) to ceil((i + 1) in / out)."""
    rank, dtype = len(output_size), dtype_of(x)
    x = batched(builder, builder.cast(x, averaging(dtype)), rank)
    if rank == 2 and not any(extent % count for extent, count in zip(shape_of(x)[2:], output_size, strict=True)):
        x = builder.emit(rx.nn.adaptive_avg_pool2d(x, list(output_size)))
    else:
        for axis, count in enumerate(output_size, 2):
            x = resampled(builder, x, axis, evenly(shape_of(x)[axis], count))
    return builder.cast(builder.reshape(x, builder.shape), dtype)


def evenly(extent: int, made: int) -> Table:
    """The means along one axis as a linear map."""
    at = covering(extent, made).numpy()
    weights = (at >= 0) / (at >= 0).sum(1, keepdims=True)
    return Table(np.maximum(at, 0), weights.astype("float32"))


def covering(extent: int, made: int) -> torch.Tensor:
    """The table (`windows.py`) of windows from floor(i in / out) to ceil((i + 1) in / out)."""
    i = torch.arange(made)
    start, end = i * extent // made, -(-(i + 1) * extent // made)
    at = start[:, None] + torch.arange(int((end - start).max()))
    return torch.where(at < end[:, None], at, -1).to(torch.int32)
