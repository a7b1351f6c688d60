"""Images sampled at points: grids and regions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, operator

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
    """Means of bilinear samples in the bins of each box, by torchvision."""
    from torchvision import ops

    if node["mode"] == "max":
        raise ValueError("it takes the largest sample of a bin (mode = max); this compiler takes mean ones (avg)")
    aligned = node.version >= 16 and node["coordinate_transformation_mode"] == "half_pixel"
    regions = torch.cat([images.to(boxes.dtype)[:, None], boxes], 1)
    size = (node["output_height"], node["output_width"])
    return ops.roi_align(x, regions, size, node["spatial_scale"], node["sampling_ratio"] or -1, aligned)


@operator("MaxRoiPool")
def roi_pool(node: Node, x: Tensor, regions: Tensor) -> Tensor:
    """The largest element of each bin of each box, by torchvision."""
    from torchvision import ops

    return ops.roi_pool(x, regions, tuple(node["pooled_shape"]), node["spatial_scale"])
