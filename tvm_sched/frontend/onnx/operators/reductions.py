"""Sums, means, extremes and their like along axes; searches and running sums."""

from collections.abc import Callable

import torch
from torch import Tensor

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator, scalar


def reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor], empty: float | None = None) -> None:
    """Enters a function of (x, axes, whether these stay, of extent 1). `empty`: what no elements give, where PyTorch's
    function does not know.
    """

    def convert(node: Node, x: Tensor, axes: Numbers = None) -> Tensor:
        axes = node["axes"] if axes is None else axes
        if not axes and node["noop_with_empty_axes"]:
            return function(x.unsqueeze(0), [0], False)  # of each element by itself
        chosen = sorted({axis % x.ndim for axis in axes}) if axes else list(range(x.ndim))
        keep = bool(node["keepdims"])
        if empty is not None and not all(x.shape[axis] for axis in chosen):
            return filled(x, chosen, keep, empty)
        return function(x, chosen, keep)

    operator(name, fixed=(1,))(convert)


def filled(x: Tensor, axes: list[int], keep: bool, value: float) -> Tensor:
    """A reduction's result in which every element is `value`, of whole numbers the nearest that there is."""
    shape = [1 if axis in axes else extent for axis, extent in enumerate(x.shape) if keep or axis not in axes]
    if x.dtype == torch.bool:
        return torch.full(shape, value > 0, dtype=x.dtype)
    if not x.dtype.is_floating_point:
        limits = torch.iinfo(x.dtype)
        value = int(min(max(value, limits.min), limits.max))
    return torch.full(shape, value, dtype=x.dtype)


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The product along several axes, the last first."""
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def sum_of(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The sum in the type of x; torch.sum takes no axes for all of them."""
    return x.sum(axes, keepdim=keep, dtype=x.dtype) if axes else x


def norm2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The root of the sum of squares."""
    return torch.sqrt(sum_of(x * x, axes, keep).to(x.dtype if x.dtype.is_floating_point else torch.float64)).to(x.dtype)


def log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """log(sum(exp(x))), which torch.logsumexp keeps from overflowing."""
    return torch.logsumexp(x, axes, keepdim=keep)


def extreme(function: Callable) -> Callable[[Tensor, list[int], bool], Tensor]:
    """torch.amax or amin, of booleans too."""

    def convert(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.dtype == torch.bool:
            return function(x.to(torch.uint8), axes, keepdim=keep).to(torch.bool)
        return function(x, axes, keepdim=keep)

    return convert


reduction("ReduceSum", sum_of)
reduction("ReduceMean", lambda x, axes, keep: x.mean(axes, keepdim=keep))
reduction("ReduceMax", extreme(torch.amax), empty=-torch.inf)
reduction("ReduceMin", extreme(torch.amin), empty=torch.inf)
reduction("ReduceProd", product)
reduction("ReduceL1", lambda x, axes, keep: sum_of(x.abs(), axes, keep))
reduction("ReduceL2", norm2)
reduction("ReduceSumSquare", lambda x, axes, keep: sum_of(x * x, axes, keep))
reduction("ReduceLogSum", lambda x, axes, keep: torch.log(sum_of(x, axes, keep)))
reduction("ReduceLogSumExp", log_sum_exp, empty=-torch.inf)


def search(name: str, function: Callable) -> None:
    """Enters torch.argmax or argmin: the first of equals, or the last where the node says so."""

    def convert(node: Node, x: Tensor) -> Tensor:
        axis, keep = node["axis"] % x.ndim, bool(node["keepdims"])
        if node["select_last_index"]:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
        return function(x, axis, keepdim=keep)

    operator(name)(convert)


search("ArgMax", torch.argmax)
search("ArgMin", torch.argmin)


@operator("TopK", fixed=(1,))
def top_k(node: Node, x: Tensor, k: Numbers = None) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest or smallest along an axis; of equals the first."""
    axis = node["axis"] % x.ndim
    descending = node["largest"] is None or bool(node["largest"])  # the smallest only from opset 11 on
    values, indices = torch.sort(x, dim=axis, descending=descending, stable=True)
    count = node["k"] if k is None else scalar(k)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def running(name: str, function: Callable, neutral: int) -> None:
    """Enters torch.cumsum or cumprod; `exclusive` leaves the element itself out, `reverse` begins at the end."""

    def convert(node: Node, x: Tensor, axis: Numbers) -> Tensor:
        axis = scalar(axis) % x.ndim
        if node["reverse"]:
            x = x.flip(axis)
        if node["exclusive"]:
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        result = function(x, axis, dtype=x.dtype)
        return result.flip(axis) if node["reverse"] else result

    operator(name, fixed=(1,))(convert)


running("CumSum", torch.cumsum, 0)
running("CumProd", torch.cumprod, 1)


@operator("Einsum")
def einsum(node: Node, *xs: Tensor) -> Tensor:
    """Products summed, by the equation's letters."""
    return torch.einsum(node["equation"], *xs)


@operator("Det")
def determinant(node: Node, x: Tensor) -> Tensor:
    """Of the matrices in the last two axes."""
    return torch.linalg.det(x)
