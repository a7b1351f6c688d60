"""Operators that PyTorch's own table leaves whole, in simpler ones: order statistics, distances, products of three.

The formulas are those of PyTorch's documentation of each.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ATEN = torch.ops.aten


def addbmm(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha sum over the batch of a @ b."""
    return beta * x + alpha * torch.bmm(a, b).sum(0)


def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """The sum over `sumdim` of three tensors' product, each with new axes where `expand` says."""
    for axis in expand1:
        a = a.unsqueeze(axis)
    for axis in expand2:
        b = b.unsqueeze(axis)
    for axis in expand3:
        c = c.unsqueeze(axis)
    product = a * b * c
    return product.sum(tuple(sumdim)) if sumdim else product


def norm_along_last(difference: Tensor, p: float) -> Tensor:
    """The p-norm along the last axis."""
    if p == 0:
        return (difference != 0).sum(-1).to(difference.dtype)
    size = difference.abs()
    if p == float("inf"):
        return size.amax(-1)
    if p == 1:
        return size.sum(-1)
    return (size * size).sum(-1).sqrt() if p == 2 else (size**p).sum(-1) ** (1 / p)


def cdist(a: Tensor, b: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """Distances of all pairs of rows: `[..., P, M]` and `[..., R, M]` to `[..., P, R]`."""
    return norm_along_last(a.unsqueeze(-2) - b.unsqueeze(-3), p)


def pdist(x: Tensor, p: float = 2) -> Tensor:
    """Distances of all pairs of different rows of `[N, M]`."""
    first, second = torch.triu_indices(len(x), len(x), 1)
    return norm_along_last(x[first] - x[second], p)


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """(the k-th smallest along an axis, where it stands)."""
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    values, places = torch.sort(x, stable=True, dim=dim)
    made = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return made if keepdim else (made[0].squeeze(dim), made[1].squeeze(dim))


def median_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """(the lower median along an axis, where it stands); NaN where there is one, which stands last in order."""
    if x.ndim == 0 or not x.is_floating_point():
        return kthvalue(x, (x.shape[dim] + 1) // 2 if x.ndim else 1, dim, keepdim)
    last = x.shape[dim] - 1
    return sorted_at(x, torch.where(x.isnan().any(dim, keepdim=True), last, last // 2), dim, keepdim)


def median(x: Tensor) -> Tensor:
    """The lower median of all."""
    return median_dim(x.reshape(-1), 0)[0]


def nanmedian_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The same of the numbers alone: what is not one stands last in order."""
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    return sorted_at(x, ((~x.isnan()).sum(dim, keepdim=True) - 1).clamp(min=0) // 2, dim, keepdim)


def sorted_at(x: Tensor, rank: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """(the numbers of that rank, from 0, along an axis in order, where they stand)."""
    values, places = torch.sort(x, stable=True, dim=dim)
    made = values.gather(dim, rank), places.gather(dim, rank)
    return made if keepdim else (made[0].squeeze(dim), made[1].squeeze(dim))


def nanmedian(x: Tensor) -> Tensor:
    """The lower median of all numbers."""
    return nanmedian_dim(x.reshape(-1), 0)[0]


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """x with its elements, counted row by row, replaced or added to."""
    flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


def angle(x: Tensor) -> Tensor:
    """Of a real number 0, or pi below 0."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return torch.where(x.isnan(), x, torch.where(x < 0, torch.pi, 0.0).to(x.dtype))


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """x with products, means or extremes of the source's slices that go to the same place along an axis."""
    axis = dim % max(x.ndim, 1)
    wide = index.reshape([-1 if i == axis else 1 for i in range(source.ndim)]).expand(source.shape)
    return x.scatter_reduce(dim, wide, source, reduce, include_self=include_self)


# Of M. Giles, "Approximating the erfinv function" (2012), in single precision: highest power first.
ERFINV_CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
ERFINV_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def erfinv(x: Tensor) -> Tensor:
    """The inverse of the error function, infinite at -1 and 1; relative error below 1e-6."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    w = -torch.log((1 - x) * (1 + x))
    centre, tail = polynomial(ERFINV_CENTRE, w - 2.5), polynomial(ERFINV_TAIL, w.sqrt() - 3)
    made = torch.where(w < 5, centre, tail) * x
    return torch.where(x.abs() == 1, x * torch.inf, made)


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """By Horner's rule, highest power first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def searchsorted(
    boundaries: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many boundaries lie below each value; with `right` those equal to it too."""
    if sorter is not None:
        boundaries = boundaries.gather(-1, sorter)
    if boundaries.ndim > 1:
        boundaries = boundaries.unsqueeze(-2)
    wide = values.unsqueeze(-1)
    below = boundaries <= wide if right or side == "right" else boundaries < wide
    return below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def bucketize(values: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """`searchsorted` of one row of boundaries."""
    return searchsorted(boundaries, values, out_int32=out_int32, right=right)


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x with the source's numbers, in order, where the mask holds."""
    x, mask = torch.broadcast_tensors(x, mask)
    order = (mask.reshape(-1).cumsum(0) - 1).clamp(0, max(source.numel() - 1, 0))
    taken = source.reshape(-1).index_select(0, order).reshape(x.shape)
    return torch.where(mask, taken, x)


COMPOSITES: dict[Callable, Callable] = {
    ATEN.addbmm.default: addbmm,
    ATEN._trilinear.default: trilinear,
    ATEN._cdist_forward.default: cdist,
    ATEN._pdist_forward.default: pdist,
    ATEN.kthvalue.default: kthvalue,
    ATEN.median.dim: median_dim,
    ATEN.median.default: median,
    ATEN.nanmedian.dim: nanmedian_dim,
    ATEN.nanmedian.default: nanmedian,
    ATEN.put.default: put,
    ATEN.index_reduce.default: index_reduce,
    ATEN.erfinv.default: erfinv,
    ATEN.special_erfinv.default: erfinv,
    ATEN.angle.default: angle,
    ATEN.searchsorted.Tensor: searchsorted,
    ATEN.bucketize.Tensor: bucketize,
    ATEN.masked_scatter.default: masked_scatter,
}
