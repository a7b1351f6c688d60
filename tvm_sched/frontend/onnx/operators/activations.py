"""Activation functions, with their parameters."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, operator, unary

SELU_ALPHA, SELU_GAMMA = 1.6732632423543772, 1.0507009873554805  # those of the paper, which PyTorch's SELU has

unary(
    {
        "HardSwish": F.hardswish,
        "Mish": F.mish,
        "Relu": F.relu,
        "Sigmoid": torch.sigmoid,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
    }
)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """x, or alpha x below zero."""
    return F.leaky_relu(x, node["alpha"])


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope x below zero; before opset 7 a vector's axis is that of the channels."""
    if node.version < 7 and slope.ndim == 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    """x, or alpha (exp(x) - 1) below zero."""
    return F.elu(x, node["alpha"])


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    """x, or alpha (exp(x / alpha) - 1) below zero."""
    return F.celu(x, node["alpha"])


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """gamma times x, or alpha (exp(x) - 1) below zero."""
    alpha, gamma = node["alpha"], node["gamma"]
    if math.isclose(alpha, SELU_ALPHA, rel_tol=1e-6) and math.isclose(gamma, SELU_GAMMA, rel_tol=1e-6):
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """By erf, or approximated by tanh."""
    return F.gelu(x, approximate=node["approximate"])


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return F.silu(x) if node["alpha"] == 1 else x * torch.sigmoid(node["alpha"] * x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """alpha x + beta between 0 and 1."""
    alpha, beta = node["alpha"], node["beta"]
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """x where it is above alpha, else 0."""
    return torch.where(x > node["alpha"], x, torch.zeros_like(x))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    """x brought nearer to zero by `bias` outside of [-lambd, lambd], 0 within."""
    zero, bias, limit = torch.zeros_like(x), node["bias"], node["lambd"]
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero)).to(x.dtype)


def along_axis(function):
    """A function of (x, axis), which before opset 13 takes all axes from the node's on as one."""

    def convert(node: Node, x: Tensor) -> Tensor:
        if node.version >= 13:
            return function(x, node["axis"])
        axis = node["axis"] % x.ndim if node["axis"] < 0 else node["axis"]
        if math.prod(x.shape[axis + 1 :]) == 1 and axis < x.ndim:
            return function(x, axis)
        return (
            function(x.flatten(axis), -1).reshape(x.shape) if axis < x.ndim else function(x.unsqueeze(-1), -1)[..., 0]
        )

    return convert


operator("Softmax")(along_axis(torch.softmax))
operator("LogSoftmax")(along_axis(torch.log_softmax))


@operator("Hardmax")
@along_axis
def hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first of the largest elements along an axis, else 0."""
    positions = torch.arange(x.shape[axis]).reshape([-1 if each == axis % x.ndim else 1 for each in range(x.ndim)])
    return (positions == x.argmax(axis, keepdim=True)).to(x.dtype)
