"""`interpolate`: every mode is a linear map along one spatial axis after another.

    y[..., i, ...] = sum_t weight[i, t] * x[..., index[i, t], ...]

Indices and weights are tables that depend on sizes alone. They are computed in float32 as PyTorch's CPU kernels do
(ATen/native/UpSample.h), since a half-pixel that rounds the other way picks another pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from tvm import relax, te
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, computing, converts
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

MOST_TERMS = 6  # taps that are written as a sum of terms; more are a reduction
CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5  # the cubic convolution's parameter a


@dataclass(frozen=True)
class Table:
    """Along one axis: for each output the inputs that count, and how much."""

    indices: np.ndarray  # [outputs, taps], int32
    weights: np.ndarray | None  # [outputs, taps], float32; None where each output is an input


def scale_of(inputs: int, outputs: int, factor: float | None, align_corners: bool = False) -> np.float32:
    """Inputs an output, by the factor that the user gave, else by the sizes."""
    if align_corners:
        return np.float32(inputs - 1) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
    return np.float32(1.0 / factor) if factor else np.float32(inputs) / np.float32(outputs)


def nearest(inputs: int, outputs: int, factor: float | None) -> Table:
    """The input below i scale."""
    at = np.arange(outputs)
    if outputs not in (inputs, 2 * inputs):
        at = np.floor(at.astype("float32") * scale_of(inputs, outputs, factor))
    elif outputs == 2 * inputs:
        at = at // 2
    return Table(np.minimum(at, inputs - 1).astype("int32")[:, None], None)


def nearest_exact(inputs: int, outputs: int, factor: float | None) -> Table:
    """The input that (i + 0.5) scale lies in."""
    at = np.floor(((np.arange(outputs) + 0.5) * scale_of(inputs, outputs, factor)).astype("float32"))
    return Table(np.minimum(at, inputs - 1).astype("int32")[:, None], None)


def centres(inputs: int, outputs: int, factor: float | None, align_corners: bool) -> np.ndarray:
    """Where outputs lie among the inputs, float32."""
    scale, at = scale_of(inputs, outputs, factor, align_corners), np.arange(outputs, dtype="float32")
    return at * scale if align_corners else (at + np.float32(0.5)) * scale - np.float32(0.5)


def linear(inputs: int, outputs: int, factor: float | None, align_corners: bool) -> Table:
    """Between the two inputs beside an output."""
    at = np.maximum(centres(inputs, outputs, factor, align_corners), 0)
    left = np.minimum(at.astype("int32"), inputs - 1)
    right = np.minimum(left + 1, inputs - 1)
    share = np.clip(at - left.astype("float32"), 0, 1)
    return Table(np.stack([left, right], 1), np.stack([1 - share, share], 1).astype("float32"))


def cubic(inputs: int, outputs: int, factor: float | None, align_corners: bool) -> Table:
    """By Keys' cubic convolution of four inputs."""
    at = centres(inputs, outputs, factor, align_corners)
    left = np.floor(at)
    share = at - left
    taps = np.arange(-1, 3)
    indices = np.clip(left[:, None] + taps, 0, inputs - 1).astype("int32")
    return Table(indices, keys(np.abs(share[:, None] - taps), CUBIC).astype("float32"))


def keys(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution's kernel (R. Keys, 1981) at distances from its centre."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def antialiased(kernel: Callable[[np.ndarray], np.ndarray], reach: float) -> Callable[..., Table]:
    """A table of a kernel, of `reach` inputs to either side, that widens where the image shrinks."""

    def table(inputs: int, outputs: int, factor: float | None, align_corners: bool) -> Table:
        scale = float(scale_of(inputs, outputs, factor, align_corners))
        widened = max(scale, 1.0)
        support = reach * widened
        centre = scale * (np.arange(outputs) + 0.5)
        start = np.maximum((centre - support + 0.5).astype("int64"), 0)
        count = np.minimum((centre + support + 0.5).astype("int64"), inputs) - start
        taps = np.arange(max(1, int(count.max()), ceil(0)))
        at = start[:, None] + taps
        weights = np.where(taps < count[:, None], kernel(np.abs(at - centre[:, None] + 0.5) / widened), 0)
        total = weights.sum(1, keepdims=True)
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)
        return Table(np.minimum(at, inputs - 1).astype("int32"), weights.astype("float32"))

    return table


linear_antialiased = antialiased(lambda distance: np.maximum(1 - distance, 0), 1)
cubic_antialiased = antialiased(lambda distance: keys(distance, CUBIC_ANTIALIASED), 2)


def resampled(builder: Builder, x: relax.Expr, axis: int, table: Table) -> relax.Expr:
    """x mapped along one axis."""
    outputs, taps = table.indices.shape
    if table.weights is None:
        return taken(builder, x, table.indices[:, 0], axis)
    dtype = dtype_of(x)
    if taps > MOST_TERMS:
        return reduced(builder, x, axis, table)
    shape = [outputs if i == axis else 1 for i in range(len(shape_of(x)))]
    terms = []
    for tap in range(taps):
        weights = table.weights[:, tap]
        if weights.any():
            factor = builder.constant(torch.from_numpy(weights.copy()).to(getattr(torch, dtype)).reshape(shape))
            terms.append(builder.emit(rx.multiply(taken(builder, x, table.indices[:, tap], axis), factor)))
    total = terms[0]
    for term in terms[1:]:
        total = builder.emit(rx.add(total, term))
    return total


def taken(builder: Builder, x: relax.Expr, indices: np.ndarray, axis: int) -> relax.Expr:
    """x at these places along an axis."""
    if np.array_equal(indices, np.arange(shape_of(x)[axis])):
        return x
    return builder.emit(rx.take(x, builder.constant(torch.from_numpy(indices.copy())), axis, mode="fast"))


def reduced(builder: Builder, x: relax.Expr, axis: int, table: Table) -> relax.Expr:
    """The same by a loop over the taps."""
    assert table.weights is not None
    (outputs, taps), shape = table.indices.shape, shape_of(x)

    def summed(source: te.Tensor, indices: te.Tensor, weights: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, taps), name="k")

        def element(*position: Any) -> Any:
            i = position[axis]
            return te.sum(source(*position[:axis], indices(i, k), *position[axis + 1 :]) * weights(i, k), axis=k)

        return te.compute([*shape[:axis], outputs, *shape[axis + 1 :]], element, name="resample")

    tables = [torch.from_numpy(table.indices), torch.from_numpy(table.weights).to(getattr(torch, dtype_of(x)))]
    return builder.te(summed, x, *map(builder.constant, tables), name="resample")


def interpolated(
    builder: Builder, x: relax.Expr, rank: int, factors: Sequence[float | None], table: Callable[..., Table], *rest: Any
) -> relax.Expr:
    """x `[B, C, *spatial]` to the result's size; the axis that shrinks most goes first."""
    dtype = dtype_of(x)
    if table not in (nearest, nearest_exact):
        x = builder.cast(x, "float32" if dtype == "uint8" else computing(dtype))
    sizes, made = shape_of(x)[2:], builder.shape[2:]
    for i in sorted(range(rank), key=lambda i: made[i] / sizes[i]):
        if table in (nearest, nearest_exact) or made[i] != sizes[i] or factors[i] not in (None, 1.0):
            x = resampled(builder, x, 2 + i, table(sizes[i], made[i], factors[i], *rest))
    if dtype == "uint8" and dtype_of(x) != "uint8":
        x = builder.emit(rx.clip(builder.emit(rx.round(x)), 0, 255))
    return builder.cast(x, dtype)


def _register(name: str, table: Callable[..., Table], aligned: bool) -> None:
    """The converters of `name` for its overloads: sizes and a factor an axis, or a list of factors."""
    rank = int(name.removesuffix("_aa")[-2])

    def default(builder: Builder, x: relax.Expr, _size: Sequence[int], *arguments: Any) -> relax.Expr:
        return interpolated(builder, x, rank, arguments[int(aligned) :], table, *arguments[: int(aligned)])

    def vec(builder: Builder, x: relax.Expr, _size: Sequence[int] | None, *arguments: Any) -> relax.Expr:
        factors = arguments[-1] or [None] * rank
        return interpolated(builder, x, rank, factors, table, *arguments[: int(aligned)])

    converts(f"{name}.default")(default)
    converts(f"{name}.vec")(vec)


NEAREST = {"upsample_nearest{}d": nearest, "_upsample_nearest_exact{}d": nearest_exact}
SMOOTH = {
    "upsample_linear1d": linear,
    "upsample_bilinear2d": linear,
    "upsample_trilinear3d": linear,
    "upsample_bicubic2d": cubic,
    "_upsample_bilinear2d_aa": linear_antialiased,
    "_upsample_bicubic2d_aa": cubic_antialiased,
}
for _pattern, _table in NEAREST.items():
    for _rank in (1, 2, 3):
        _register(_pattern.format(_rank), _table, aligned=False)
for _name, _table in SMOOTH.items():
    _register(_name, _table, aligned=True)
