"""Sampling of images at computed places: `grid_sample`, and torchvision's `roi_align`.

Pixels are taken as rows of channels, so that a place is looked up once for all of them, from images that are stored
channels last without a transposition.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from subp_contract.errors import UserError

LINEAR, NEAREST, CUBIC = range(3)  # modes of `torch.nn.functional.grid_sample`
ZEROS, BORDER, REFLECTION = range(3)  # what lies outside
KEYS = -0.75  # the cubic convolution's parameter a
Places = Sequence[Tensor]  # positions along each spatial axis, the last axis first, `[B, *result]`


def decompositions() -> dict[Callable, Callable]:
    """Operator -> its decomposition; torchvision's only where it has been imported, since the network used it."""
    table: dict[Callable, Callable] = {
        torch.ops.aten.grid_sampler_2d.default: grid_sampler,
        torch.ops.aten.grid_sampler_3d.default: grid_sampler,
    }
    if hasattr(torch.ops.torchvision, "roi_align"):
        table[torch.ops.torchvision.roi_align.default] = roi_align
    return table


def grid_sampler(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """x `[B, C, *spatial]` at grid `[B, *result, axes]`, whose last axis is (x, y) or (x, y, z) from -1 to 1, to
    `[B, C, *result]`; by the formulas of PyTorch's documentation of `grid_sample` and of its CPU kernels.
    """
    sizes = x.shape[:1:-1]
    rows = x.permute(0, *range(2, x.ndim), 1)
    limit = partial(limited, padding=padding, align_corners=align_corners)
    at = [place_of(grid[..., axis], size, align_corners) for axis, size in enumerate(sizes)]
    if mode == CUBIC:
        sampled = cubic(rows, at, limit)
    else:
        at = [limit(place, size) for place, size in zip(at, sizes, strict=True)]
        sampled = picked(rows, [place.round() for place in at]) if mode == NEAREST else linear(rows, at)
    return sampled.permute(0, sampled.ndim - 1, *range(1, sampled.ndim - 1))


def linear(rows: Tensor, at: Places) -> Tensor:
    """Between the pixels around each place."""
    low = [place.floor() for place in at]
    total = None
    for corner in product((0, 1), repeat=len(at)):
        shares = [place - start for place, start in zip(at, low, strict=True)]
        weight = joined([share if side else 1 - share for share, side in zip(shares, corner, strict=True)])
        term = picked(rows, [start + side for start, side in zip(low, corner, strict=True)]) * weight[..., None]
        total = term if total is None else total + term
    assert total is not None
    return total


def cubic(rows: Tensor, at: Places, limit: Callable[[Tensor, int], Tensor]) -> Tensor:
    """By cubic convolution of the four by four pixels around each place, each pulled inside by itself."""
    sizes = rows.shape[-2:0:-1]
    low = [place.floor() for place in at]
    total = None
    for taps in product(range(-1, 3), repeat=len(at)):
        offsets = [(place - start - tap).abs() for place, start, tap in zip(at, low, taps, strict=True)]
        places = [limit(start + tap, size) for start, tap, size in zip(low, taps, sizes, strict=True)]
        term = picked(rows, places) * joined([keys(offset) for offset in offsets])[..., None]
        total = term if total is None else total + term
    assert total is not None
    return total


def keys(distance: Tensor) -> Tensor:
    """The cubic convolution's kernel (R. Keys, 1981) at distances from its centre."""
    d, a = distance, KEYS
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return torch.where(d <= 1, near, a * (((d - 5) * d + 8) * d - 4))


def joined(shares: Sequence[Tensor]) -> Tensor:
    """The product of weights along the axes."""
    weight = shares[0]
    for share in shares[1:]:
        weight = weight * share
    return weight


def place_of(at: Tensor, size: int, align_corners: bool) -> Tensor:
    """Places from -1 to 1 as places among `size` pixels."""
    return (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2


def limited(place: Tensor, size: int, padding: int, align_corners: bool) -> Tensor:
    """Places pulled inside, as the padding says."""
    if padding == ZEROS:
        return place
    if padding == REFLECTION:
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(place)
        place = (place - low).abs()
        flips, rest = (place / span).floor(), torch.fmod(place, span)
        place = torch.where(flips % 2 == 0, rest + low, span - rest + low)
    return place.clamp(0, size - 1)


def picked(rows: Tensor, places: Places) -> Tensor:
    """rows `[B, *spatial, C]` at whole places, `[B, *result, C]`; 0 outside."""
    batch, *spatial, channels = rows.shape
    flat = torch.arange(batch).reshape(-1, *[1] * (places[0].ndim - 1))
    inside = None
    for place, size in zip(reversed(places), spatial, strict=True):
        here = (place >= 0) & (place <= size - 1)
        inside = here if inside is None else inside & here
        flat = flat * size + place.clamp(0, size - 1).to(torch.int64)
    assert inside is not None
    values = rows.reshape(-1, channels).index_select(0, flat.reshape(-1)).reshape(*flat.shape, channels)
    return values * inside[..., None].to(rows.dtype)


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
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)  # pixels of all images
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
