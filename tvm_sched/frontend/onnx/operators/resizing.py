"""Resize and Upsample: along each axis by itself, each output a weighted sum of a few inputs.

    y[i] = sum_t weight[i, t] x[index[i, t]]

Indices and weights follow from sizes alone, so they are computed with NumPy when the file is loaded. Where they are
those of PyTorch's `interpolate`, that is used. Formulas: https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from subp_contract.errors import UserError
from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator

MODES = {3: {"linear": "linear"}, 4: {"linear": "bilinear", "cubic": "bicubic"}, 5: {"linear": "trilinear"}}
FEW = 4  # taps that are summed one by one; more are a product with a matrix


@dataclass(frozen=True)
class Axis:
    """One axis to resize.

    scale:   as the node says it, or outputs / inputs where it gives sizes
    wanted:  scale x inputs, which a scale may leave a fraction
    region:  of interest, in parts of the input
    """

    number: int
    inputs: int
    outputs: int
    scale: np.float32
    wanted: float
    region: tuple[float, float]

    def coordinates(self, transformation: str) -> np.ndarray:
        """Where in the input each output lies, `[outputs]`; in float32, as others compute it: ties fall alike."""
        i, wanted = np.arange(self.outputs, dtype=np.float32), np.float32(self.wanted)
        last = np.float32(self.inputs - 1)
        if transformation == "asymmetric":
            return i / self.scale
        if transformation == "align_corners":
            return np.zeros_like(i) if wanted == 1 else i * last / (wanted - 1)
        if transformation == "tf_crop_and_resize":
            start, end = map(np.float32, self.region)
            step = (end - start) * last
            return start * last + (np.full_like(i, step / 2) if wanted == 1 else i * step / (wanted - 1))
        if transformation == "pytorch_half_pixel" and wanted == 1:
            return np.full_like(i, -0.5)
        middle = (i + np.float32(0.5)) / self.scale - np.float32(0.5)
        if transformation == "half_pixel_symmetric":
            return np.float32(self.inputs) / 2 * (1 - np.float32(self.outputs) / wanted) + middle
        return middle


@operator("Upsample", fixed=(1,))
def upsample(node: Node, x: Tensor, scales: Numbers = None) -> Tensor:
    """Resize as it was before opset 10."""
    return resize(node, x, node["scales"] if scales is None else scales)


@operator("Resize", fixed=(1, 2, 3))
def resize(node: Node, x: Tensor, region: Numbers = None, scales: Numbers = None, sizes: Numbers = None) -> Tensor:
    """x in other extents, by scales or sizes."""
    if node.version < 11:
        scales, region = region, None
    transformation = node["coordinate_transformation_mode"] or "asymmetric"
    extrapolated = node["extrapolation_value"] or 0.0
    axes = resized_axes(node, tuple(x.shape), region, scales, sizes)
    if not axes:
        return x
    kept = x if x.dtype.is_floating_point or node["mode"] == "nearest" else x.to(torch.float32)
    if (whole := as_interpolate(node, kept, axes, transformation)) is not None:
        return whole.to(x.dtype)
    y = kept
    for axis in axes:
        at = axis.coordinates(transformation)
        if node["mode"] == "nearest":
            y = y.index_select(axis.number, torch.from_numpy(nearest(node, at, axis.inputs)))
        else:
            y = weighted(y, axis, *taps(node, at, axis))
        if transformation == "tf_crop_and_resize":
            outside = torch.from_numpy((at < 0) | (at > axis.inputs - 1))
            outside = outside.reshape([-1 if each == axis.number else 1 for each in range(y.ndim)])
            y = torch.where(outside, torch.tensor(extrapolated, dtype=y.dtype), y)
    return y.to(x.dtype)


def resized_axes(node: Node, shape: tuple[int, ...], region: Numbers, scales: Numbers, sizes: Numbers) -> list[Axis]:
    """The axes whose extents change, or of which a region is taken."""
    rank = len(shape)
    numbers = list(range(rank)) if not node["axes"] else [axis % rank for axis in node["axes"]]
    extents = [shape[number] for number in numbers]
    if sizes:
        scales = [size / extent for size, extent in zip(sizes, extents, strict=True)]
        policy = node["keep_aspect_ratio_policy"] or "stretch"
        if policy != "stretch":
            one = min(scales) if policy == "not_larger" else max(scales)
            scales = [one] * len(scales)
            sizes = [int(one * extent + 0.5) for extent in extents]
        wanted = (
            sizes if policy == "stretch" else [scale * extent for scale, extent in zip(scales, extents, strict=True)]
        )
    elif scales:
        wanted = [np.float32(scale) * np.float32(extent) for scale, extent in zip(scales, extents, strict=True)]
        sizes = [int(np.floor(each)) for each in wanted]
    else:
        raise UserError("has neither scales nor sizes")
    cropped = bool(region) and node["coordinate_transformation_mode"] == "tf_crop_and_resize"
    count = len(numbers)
    regions = list(zip(region[:count], region[count:], strict=True)) if cropped else [(0.0, 1.0)] * count
    axes = [
        Axis(number, extent, size, np.float32(scale), float(each), part)
        for number, extent, size, scale, each, part in zip(
            numbers, extents, sizes, scales, wanted, regions, strict=True
        )
    ]
    return [axis for axis in axes if axis.inputs != axis.outputs or axis.scale != 1 or axis.region != (0.0, 1.0)]


def as_interpolate(node: Node, x: Tensor, axes: list[Axis], transformation: str) -> Tensor | None:
    """By PyTorch's `interpolate` where that computes the same, else None."""
    if x.ndim not in MODES or min(axis.number for axis in axes) < 2 or transformation == "tf_crop_and_resize":
        return None
    size = list(x.shape[2:])
    for axis in axes:
        size[axis.number - 2] = axis.outputs
    if node["mode"] == "nearest":
        alike = all(
            np.array_equal(
                nearest(node, axis.coordinates(transformation), axis.inputs),
                np.arange(axis.outputs) * axis.inputs // axis.outputs,
            )
            for axis in axes
        )
        return F.interpolate(x, size, mode="nearest") if alike else None
    mode = MODES[x.ndim].get(node["mode"])
    if mode is None or node["antialias"] or node["exclude_outside"]:
        return None
    if node["mode"] == "cubic" and node["cubic_coeff_a"] not in (None, -0.75):
        return None
    for corners in (False, True):
        if all(np.allclose(axis.coordinates(transformation), of_torch(axis, corners)) for axis in axes):
            return F.interpolate(x, size, mode=mode, align_corners=corners)
    return None


def of_torch(axis: Axis, corners: bool) -> np.ndarray:
    """The coordinates that `interpolate` takes for a size."""
    i = np.arange(axis.outputs)
    if corners:
        return i * (axis.inputs - 1) / max(axis.outputs - 1, 1)
    return (i + 0.5) * axis.inputs / axis.outputs - 0.5


ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest(node: Node, at: np.ndarray, extent: int) -> np.ndarray:
    """The input that each output is a copy of."""
    rounded = ROUNDINGS["floor" if node.version < 11 else node["nearest_mode"]](at)
    return np.clip(rounded, 0, extent - 1).astype(np.int64)


def taps(node: Node, at: np.ndarray, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight) `[outputs, taps]` for linear and cubic modes."""
    a = -0.75 if node["cubic_coeff_a"] is None else node["cubic_coeff_a"]
    kernel, reach = (triangle, 1) if node["mode"] == "linear" else (partial(cubic, a=a), 2)
    shrunk = min(axis.scale, 1.0) if node["antialias"] else 1.0
    width = int(np.ceil(reach / shrunk))
    base = np.floor(at).astype(np.int64)[:, None]
    index = base + np.arange(1 - width, width + 1)
    weight = kernel((index - at[:, None]) * shrunk)
    if node["exclude_outside"]:
        weight = np.where((index < 0) | (index >= axis.inputs), 0, weight)
    if node["exclude_outside"] or shrunk < 1:
        weight = weight / weight.sum(1, keepdims=True)
    return np.clip(index, 0, axis.inputs - 1), weight


def triangle(distance: np.ndarray) -> np.ndarray:
    """Linear interpolation's weight at a distance."""
    return np.clip(1 - np.abs(distance), 0, 1)


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution's weight at a distance (Keys, 1981)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def weighted(x: Tensor, axis: Axis, index: np.ndarray, weight: np.ndarray) -> Tensor:
    """The sum over taps along one axis."""
    if index.shape[1] > FEW:
        matrix = np.zeros((axis.inputs, axis.outputs))
        np.add.at(matrix, (index, np.arange(axis.outputs)[:, None]), weight)
        return (x.movedim(axis.number, -1) @ torch.from_numpy(matrix).to(x.dtype)).movedim(-1, axis.number)
    shape = [-1 if each == axis.number else 1 for each in range(x.ndim)]
    parts = [
        x.index_select(axis.number, torch.from_numpy(np.ascontiguousarray(index[:, tap])))
        * torch.from_numpy(weight[:, tap]).to(x.dtype).reshape(shape)
        for tap in range(index.shape[1])
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
