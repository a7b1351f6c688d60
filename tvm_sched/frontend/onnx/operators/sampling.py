"""Images sampled at points between their pixels: grids, regions, deformed windows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from subp_contract.errors import UserError
from tvm_sched.frontend.decompositions.sampling import samples
from tvm_sched.frontend.onnx.operators.registry import Node, operator
from tvm_sched.frontend.onnx.operators.windows import Windows

GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # names since opset 20


@operator("GridSample")
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """x at points between -1 and 1."""
    mode = GRID_MODES.get(node["mode"], node["mode"])
    return F.grid_sample(x, grid, mode, node["padding_mode"], bool(node["align_corners"]))


@operator("AffineGrid", fixed=(1,))
def affine_grid(node: Node, theta: Tensor, size: list[int]) -> Tensor:
    """Points of an output of that size, through an affine map."""
    return F.affine_grid(theta, size, bool(node["align_corners"]))


@operator("RoiAlign")
def roi_align(node: Node, x: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """Bilinear samples in the bins of each box `[K, (x1, y1, x2, y2)]`, their mean or the largest weighted pixel."""
    count = node["sampling_ratio"]
    if not count:
        raise UserError("takes as many samples as a box is large (sampling_ratio = 0): give it a number of samples")
    half_pixel = node.version >= 16 and node["coordinate_transformation_mode"] != "output_half_pixel"
    corners = boxes * node["spatial_scale"] - (0.5 if half_pixel else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not half_pixel:
        size = size.clamp(min=1)
    bins = (node["output_height"], node["output_width"])
    rows = samples(start[:, 1], size[:, 1], bins[0], count, x.shape[2])
    columns = samples(start[:, 0], size[:, 0], bins[1], count, x.shape[3])
    pixels = x.permute(0, 2, 3, 1)
    parts = [
        pixels[images.long()[:, None, None], row[:, :, None], column[:, None, :]]
        * (by_row[:, :, None] * by_column[:, None, :])[..., None]
        for row, by_row in rows
        for column, by_column in columns
    ]  # each [K, rows, columns, C]
    largest = node["mode"] == "max"
    value = torch.stack(parts).amax(0) if largest else parts[0] + parts[1] + parts[2] + parts[3]
    value = value.reshape(len(boxes), bins[0], count, bins[1], count, x.shape[1])
    return (value.amax((2, 4)) if largest else value.mean((2, 4))).permute(0, 3, 1, 2)


@operator("DeformConv")
def deformable_convolution(
    node: Node, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """A convolution, whose windows' elements are sampled at offsets `[N, groups kh kw (y, x), H, W]`."""
    windows = Windows.of(node, tuple(x.shape[2:]), tuple(weight.shape[2:]))
    batch, channels = x.shape[:2]
    groups, taps = node["offset_group"], weight[0, 0].numel()
    height, width = offset.shape[2:]
    offset = offset.reshape(batch * groups, taps, 2, height, width)
    places = []
    for axis, count in enumerate((height, width)):
        starts = torch.arange(count) * windows.strides[axis] - windows.before[axis]
        inside = torch.arange(windows.kernel[axis]) * windows.dilations[axis]
        shape = [1, 1, 1, 1]
        shape[axis], shape[2 + axis] = windows.kernel[axis], count
        own = (inside[:, None] + starts).reshape(shape).expand(*windows.kernel, height, width)
        at = offset[:, :, axis] + own.reshape(taps, height, width)
        places.append((2 * at + 1) / x.shape[2 + axis] - 1)
    grid = torch.stack(places[::-1], -1).reshape(batch * groups, taps * height, width, 2)
    samples = F.grid_sample(x.reshape(batch * groups, -1, *x.shape[2:]), grid, align_corners=False)
    samples = samples.reshape(batch, groups, channels // groups, taps, height * width)
    if mask is not None:
        samples = samples * mask.reshape(batch, groups, 1, taps, height * width)
    convolved = node["group"]
    columns = samples.reshape(batch, convolved, -1, height * width)
    y = weight.reshape(convolved, len(weight) // convolved, -1) @ columns
    y = y.reshape(batch, len(weight), height, width)
    return y if bias is None else y + bias.reshape(-1, 1, 1)
