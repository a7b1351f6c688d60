"""Windows whose elements are told apart: maxima with their places, windows that cover an axis evenly, `fold`.

A window's place on an axis is a table: for each output, the input of each of its taps, or -1 where there is none.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from tvm import relax, te, tirx

from tvm_sched.frontend.aten.converter import Builder, converts
from tvm_sched.frontend.aten.pooling import batched, covering, every, max_pool
from tvm_sched.frontend.aten.reductions import ahead, worst
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


def sliding(extent: int, made: int, size: int, step: int, before: int, dilation: int) -> torch.Tensor:
    """The table of windows of `size` taps, each `step` after the other."""
    at = torch.arange(made)[:, None] * step - before + torch.arange(size) * dilation
    return torch.where((at >= 0) & (at < extent), at, -1).to(torch.int32)


def largest(builder: Builder, x: relax.Expr, tables: Sequence[torch.Tensor]) -> tuple[relax.Expr, relax.Expr]:
    """(the largest of each window, its place in the image, row by row, int64) of x `[B, C, *spatial]`."""
    dtype, spatial = dtype_of(x), shape_of(x)[2:]
    made = [*shape_of(x)[:2], *(len(table) for table in tables)]

    def found(source: te.Tensor, *places: te.Tensor) -> list[te.Tensor]:
        taps = [te.reduce_axis((0, table.shape[1]), name=f"k{i}") for i, table in enumerate(tables)]
        reducer = tirx.comm_reducer(
            lambda one, other: ahead(one, other, largest=True),
            lambda kind, _: (worst(kind, largest=True), tirx.const(prod(spatial), "int32")),
            name="largest",
        )

        def element(*position: Any) -> Any:
            at = [place(i, k) for place, i, k in zip(places, position[2:], taps, strict=True)]
            flat = at[0]
            for where, extent in zip(at[1:], spatial[1:], strict=True):
                flat = flat * extent + where
            within = tirx.all(*(where >= 0 for where in at))
            inside = [tirx.max(where, 0) for where in at]
            value = tirx.if_then_else(within, source(*position[:2], *inside), worst(dtype, largest=True))
            place = tirx.if_then_else(within, flat, tirx.const(prod(spatial), "int32"))
            return reducer((value, place), axis=taps)

        return te.compute(made, element, name="largest")

    both = builder.te(found, x, *map(builder.constant, tables), name="largest_with_place")
    values, flat = builder.fields(both, 2)
    return values, builder.cast(flat, "int64")


@converts("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(
    builder: Builder, x: relax.Expr, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[relax.Expr, relax.Expr | None]:
    """(the largest of each window, where it stands in the image)."""
    if not any(user.args[1] == 1 for user in builder.node.users):
        return max_pool(builder, x, kernel_size, stride, padding, dilation, ceil_mode), None
    rank = 2 if "2d" in builder.node.target._schema.name else 3
    shape = list(builder.meta[0].shape)
    kernel, padding, dilation = (every(values, rank) for values in (kernel_size, padding, dilation))
    stride = every(stride, rank) if stride else kernel
    x = batched(builder, x, rank)
    sizes = zip(shape_of(x)[2:], shape[-rank:], kernel, stride, padding, dilation, strict=True)
    values, places = largest(builder, x, [sliding(*each) for each in sizes])
    return builder.reshape(values, shape), builder.reshape(places, shape)


@converts("adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(builder: Builder, x: relax.Expr, output_size: Sequence[int]) -> tuple[relax.Expr, relax.Expr]:
    """(the largest of windows that cover each axis evenly, where it stands in the image)."""
    shape = list(builder.meta[0].shape)
    x = batched(builder, x, len(output_size))
    sizes = zip(shape_of(x)[2:], shape[-len(output_size) :], strict=True)
    values, places = largest(builder, x, [covering(*each) for each in sizes])
    return builder.reshape(values, shape), builder.reshape(places, shape)


@converts("col2im")
def fold(
    builder: Builder,
    x: relax.Expr,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> relax.Expr:
    """Windows `[B, C kh kw, L]` summed into the image that they come from, each pixel over the windows that hold it."""
    shape = shape_of(x)
    columns = x if len(shape) == 3 else builder.reshape(x, [1, *shape])
    kernel, dilation, padding, stride = (every(each, 2) for each in (kernel_size, dilation, padding, stride))
    counts = [
        (extent + 2 * before - step * (size - 1) - 1) // apart + 1
        for extent, before, step, size, apart in zip(output_size, padding, dilation, kernel, stride, strict=True)
    ]
    batch, channels = shape_of(columns)[0], shape_of(columns)[1] // prod(kernel)
    apart = builder.reshape(columns, [batch, channels, *kernel, *counts])

    def summed(source: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, size), name=f"k{i}") for i, size in enumerate(kernel)]

        def element(b: Any, c: Any, *pixel: Any) -> Any:
            offsets = [
                at + before - tap * step for at, before, tap, step in zip(pixel, padding, taps, dilation, strict=True)
            ]
            windows = [tirx.floordiv(offset, step) for offset, step in zip(offsets, stride, strict=True)]
            within = [
                condition
                for offset, window, step, count in zip(offsets, windows, stride, counts, strict=True)
                for condition in (offset >= 0, tirx.floormod(offset, step) == 0, window < count)
            ]
            value = tirx.if_then_else(
                tirx.all(*within), source(b, c, *taps, *windows), tirx.const(0, str(source.dtype))
            )
            return te.sum(value, axis=taps)

        return te.compute([batch, channels, *output_size], element, name="fold")

    made = builder.te(summed, apart)
    return builder.reshape(made, builder.shape) if len(shape) == 2 else made
