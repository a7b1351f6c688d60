"""Convolutions and products of tensors; those with weights of the file become modules (`layers`)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, operator
from tvm_sched.frontend.onnx.operators.shapes import padded
from tvm_sched.frontend.onnx.operators.windows import Windows

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}  # by spatial axes
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution whose weight is computed."""
    windows = Windows.of(node, x.shape[2:], weight.shape[2:])
    padding = windows.before
    if not windows.symmetric:
        x, padding = windows.pad(x), (0,) * len(padding)
    convolve = CONVOLUTIONS[weight.ndim - 2]
    return convolve(x, weight, bias, windows.strides, padding, windows.dilations, node["group"])


@operator("ConvTranspose")
def transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A transposed convolution: the whole of it, cropped by the padding."""
    kernel = weight.shape[2:]
    axes = len(kernel)
    strides, dilations = node["strides"] or [1] * axes, node["dilations"] or [1] * axes
    more = node["output_padding"] or [0] * axes
    pads = node["pads"] or [0] * (2 * axes)
    automatic, extents = node["auto_pad"] or "NOTSET", node["output_shape"]
    whole = [
        stride * (extent - 1) + (size - 1) * dilation + 1 + extra
        for extent, size, stride, dilation, extra in zip(x.shape[2:], kernel, strides, dilations, more, strict=True)
    ]
    if extents is None and automatic.startswith("SAME"):
        extents = [extent * stride for extent, stride in zip(x.shape[2:], strides, strict=True)]
    if extents is not None:
        totals = [full - extent for full, extent in zip(whole, extents[-axes:], strict=True)]
        less = [total // 2 for total in totals]
        rest = [total - half for total, half in zip(totals, less, strict=True)]
        pads = [*less, *rest] if automatic == "SAME_UPPER" else [*rest, *less]
    before, after = pads[:axes], pads[axes:]
    convolve = TRANSPOSED[axes]
    fits = all(extra < max(stride, dilation) for extra, stride, dilation in zip(more, strides, dilations, strict=True))
    if before == after and min(before) >= 0 and fits:
        return convolve(x, weight, bias, strides, before, more, node["group"], dilations)
    y = convolve(x, weight, None, strides, 0, 0, node["group"], dilations)
    y = padded(y, [(-first, extra - last) for first, last, extra in zip(before, after, more, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha A B + beta C, A or B transposed where the node says so."""
    y = (a.t() if node["transA"] else a) @ (b.t() if node["transB"] else b)
    y = y if node["alpha"] == 1 else (y * node["alpha"]).to(y.dtype)
    if c is None:
        return y
    return y + (c if node["beta"] == 1 else (c * node["beta"]).to(y.dtype))


operator("MatMul")(lambda node, a, b: torch.matmul(a, b))


@operator("Col2Im", fixed=(1, 2))
def columns_to_image(node: Node, x: Tensor, image: list[int], block: list[int]) -> Tensor:
    """Blocks `[N, C blocks, places]` added into an image where they overlap."""
    windows = Windows.of(node, tuple(image), tuple(block))
    if len(block) == 2 and windows.symmetric:
        return F.fold(x, image, block, windows.dilations, windows.before, windows.strides)
    return added(x, windows, image)


def added(x: Tensor, windows: Windows, image: list[int]) -> Tensor:
    """The same for any number of axes, each element at the place of its window."""
    block = windows.kernel
    counts = windows.outputs(tuple(image), ceil=False)
    extents = [sum(each) for each in zip(image, windows.before, windows.after, strict=True)]
    channels = x.shape[1] // torch.Size(block).numel()
    parts = x.reshape(x.shape[0], channels, *block, *counts)
    result = x.new_zeros(x.shape[0], channels, torch.Size(extents).numel())
    places = torch.zeros((), dtype=torch.int64)
    axes = len(block)
    for axis, extent in enumerate(extents):
        inside = torch.arange(block[axis]) * windows.dilations[axis]
        starts = torch.arange(counts[axis]) * windows.strides[axis]
        along = inside.reshape([-1 if each == axis else 1 for each in range(2 * axes)])
        along = along + starts.reshape([-1 if each == axes + axis else 1 for each in range(2 * axes)])
        places = places * extent + along
    index = places.expand(*block, *counts).reshape(1, 1, -1).expand(x.shape[0], channels, -1)
    volume = result.scatter_add(2, index, parts.flatten(2)).reshape(x.shape[0], channels, *extents)
    return padded(volume, [(-first, -last) for first, last in zip(windows.before, windows.after, strict=True)])
