"""Sampling of images at computed places: `grid_sample` of volumes, and torchvision's `roi_align`."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from subp_contract.errors import UserError


def decompositions() -> dict[Callable, Callable]:
    """Operator -> its decomposition; torchvision's only where it has been imported, since the network used it."""
    table: dict[Callable, Callable] = {torch.ops.aten.grid_sampler_3d.default: grid_sampler_3d}
    if hasattr(torch.ops.torchvision, "roi_align"):
        table[torch.ops.torchvision.roi_align.default] = roi_align
    return table


def grid_sampler_3d(x: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """x `[B, C, D, H, W]` at grid `[B, d, h, w, 3]`, whose last axis is (x, y, z) from -1 to 1. Modes as of
    `torch.nn.functional.grid_sample`: 0 linear, 1 nearest; padding 0 zeros, 1 border, 2 reflection.
    """
    sizes = x.shape[:1:-1]  # W, H, D
    places = [source_place(grid[..., axis], size, padding_mode, align_corners) for axis, size in enumerate(sizes)]
    if interpolation_mode == 1:
        return picked(x, [place.round() for place in places])
    low = [place.floor() for place in places]
    total = torch.zeros((), dtype=x.dtype)
    for corner in product((0, 1), repeat=3):
        weight = torch.ones((), dtype=x.dtype)
        for place, start, side in zip(places, low, corner, strict=True):
            share = place - start
            weight = weight * (share if side else 1 - share)
        total = total + picked(x, [start + side for start, side in zip(low, corner, strict=True)]) * weight[:, None]
    return total


def source_place(at: Tensor, size: int, padding_mode: int, align_corners: bool) -> Tensor:
    """Places from -1 to 1 as places among `size` numbers."""
    place = (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2
    if padding_mode == 0:
        return place
    if padding_mode == 2:
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(place)
        place = (place - low).abs()
        flips, rest = (place / span).floor(), place % span
        place = torch.where(flips % 2 == 0, rest + low, span - rest + low)
    return place.clamp(0, size - 1)


def picked(x: Tensor, places: list[Tensor]) -> Tensor:
    """x `[B, C, *spatial]` at whole places (the last axis first), 0 outside."""
    sizes = x.shape[:1:-1]
    inside = torch.ones_like(places[0], dtype=torch.bool)
    flat = torch.zeros_like(places[0], dtype=torch.int64)
    for place, size in reversed(list(zip(places, sizes, strict=True))):
        inside = inside & (place >= 0) & (place <= size - 1)
        flat = flat * size + place.clamp(0, size - 1).to(torch.int64)
    batch, channels = x.shape[:2]
    index = flat.reshape(batch, 1, -1).expand(batch, channels, -1)
    values = x.reshape(batch, channels, -1).gather(2, index).reshape(batch, channels, *flat.shape[1:])
    return values * inside[:, None].to(x.dtype)


def roi_align(
    x: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Means of bilinear samples on a grid in each box (He et al., Mask R-CNN): x `[B, C, H, W]`, rois `[K, 5]` of
    (image, x1, y1, x2, y2) to `[K, C, pooled_height, pooled_width]`. Raises UserError where the number of samples
    depends on the boxes.
    """
    if sampling_ratio <= 0:
        raise UserError(
            "operator `roi_align` with sampling_ratio 0 or -1 takes as many samples as a box is large, which depends "
            "on values: give a sampling_ratio above 0"
        )
    shift = 0.5 if aligned else 0.0
    image = rois[:, 0].to(torch.int64)
    x1, y1, x2, y2 = (rois[:, i] * spatial_scale - shift for i in range(1, 5))
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = width.clamp(min=1.0), height.clamp(min=1.0)
    rows = samples(y1, height, pooled_height, sampling_ratio, x.shape[2])
    columns = samples(x1, width, pooled_width, sampling_ratio, x.shape[3])
    count, channels = len(rois), x.shape[1]
    flat = x.reshape(x.shape[0], channels, -1).permute(0, 2, 1).reshape(-1, channels)  # pixels of all images
    total = torch.zeros((), dtype=x.dtype)
    for (row, row_weight), (column, column_weight) in product(rows, columns):
        places = (image[:, None, None] * x.shape[2] + row[:, :, None]) * x.shape[3] + column[:, None, :]
        weight = row_weight[:, :, None] * column_weight[:, None, :]
        total = total + flat.index_select(0, places.reshape(-1)).reshape(*places.shape, channels) * weight[..., None]
    grid = (count, pooled_height, sampling_ratio, pooled_width, sampling_ratio, channels)
    return total.reshape(grid).mean((2, 4)).permute(0, 3, 1, 2)


def samples(start: Tensor, length: Tensor, bins: int, ratio: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Along one axis, the two pixels beside each sample and their weights: [(place `[K, bins ratio]`, weight), ...].
    Samples beyond one pixel outside count nothing.
    """
    steps = (torch.arange(bins * ratio, dtype=start.dtype) + 0.5) / ratio
    at = start[:, None] + steps * (length / bins)[:, None]
    within = ((at >= -1.0) & (at <= size)).to(start.dtype)
    at = at.clamp(0, size - 1)
    low = at.floor()
    share = at - low
    low = low.to(torch.int64)
    return [(low, (1 - share) * within), ((low + 1).clamp(max=size - 1), share * within)]
