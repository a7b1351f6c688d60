"""Normalisation over a batch, an image, a layer, groups of channels or neighbours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from subp_contract.errors import UserError
from tvm_sched.frontend.onnx.operators.registry import Node, operator
from tvm_sched.frontend.onnx.operators.shapes import padded


def by_channel(vector: Tensor, x: Tensor) -> Tensor:
    """`vector [C]` as it broadcasts to `x [N, C, ...]`."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


@operator("BatchNormalization")
def batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """By the running statistics; in training mode by the batch's, of which (y, mean, variance) run on."""
    if node.version < 9 and node["spatial"] == 0:
        raise UserError("has statistics of single pixels (spatial = 0), which this compiler does not know")
    if not node["training_mode"]:
        if len({each.dtype for each in (x, scale, bias, mean, variance)}) > 1:
            scale, bias, mean, variance = (each.to(x.dtype) for each in (scale, bias, mean, variance))
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node["epsilon"])
    axes = [axis for axis in range(x.ndim) if axis != 1]
    now, spread = x.mean(axes), x.var(axes, unbiased=False)
    y = F.batch_norm(x, now, spread, scale, bias, False, 0.0, node["epsilon"])
    kept = node["momentum"]
    return y, mean * kept + now * (1 - kept), variance * kept + spread * (1 - kept)


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By each channel's own statistics."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=node["epsilon"])


@operator("LayerNormalization")
def layer_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """By the statistics of the axes from the node's on; (y, mean, 1 / deviation)."""
    axis, eps = node["axis"] % x.ndim, node["epsilon"]
    normalised = list(x.shape[axis:])
    if node.outputs == 1 and list(scale.shape) == normalised and (bias is None or list(bias.shape) == normalised):
        return F.layer_norm(x, normalised, scale, bias, eps)
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).pow(2).mean(axes, keepdim=True) + eps)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


@operator("GroupNormalization")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By the statistics of groups of channels; before opset 21 scale and bias are of groups."""
    groups = node["num_groups"]
    if node.version < 21 and len(scale) == groups:
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node["epsilon"])


@operator("LRN")
def local_response_norm(node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of squares of `size` channels around)^beta."""
    size, alpha, beta, bias = node["size"], node["alpha"], node["beta"], node["bias"]
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    before = (size - 1) // 2
    squares = padded(x * x, [(before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares.narrow(1, first, x.shape[1]) for first in range(size))
    return x / (bias + alpha / size * total).pow(beta)


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: Node, x: Tensor) -> Tensor:
    """(x - mean) / (deviation + 1e-9), along axes."""
    axes = [0, 2, 3] if node["axes"] is None else node["axes"]
    mean = x.mean(axes, keepdim=True)
    deviation = torch.sqrt((x * x).mean(axes, keepdim=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)


@operator("LpNormalization")
def norm(node: Node, x: Tensor) -> Tensor:
    """x / its 1-norm or 2-norm along an axis; 0 where that is 0."""
    axis = node["axis"]
    length = x.abs().sum(axis, keepdim=True) if node["p"] == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return x / torch.where(length == 0, torch.ones_like(length), length)


@operator("RMSNormalization")
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """x / the root of the mean of squares of the axes from the node's on, scaled."""
    axes = list(range(node["axis"] % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + node["epsilon"]) * scale
