"""ONNX's QuantizeLinear as an operator of PyTorch's, so that it stands in an exported graph, and its converter."""

import torch
from torch import Tensor
from tvm import relax

from tvm_sched.frontend.aten.converter import Builder, converts
from tvm_sched.frontend.aten.quantised.pairs import quantised
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of


@torch.library.custom_op("subp::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """ONNX's QuantizeLinear: saturate(round(x / scale) + zero point), halves to even, in the zero point's type; along
    an axis where the scale is a vector.
    """
    if scale.ndim:
        behind = x.ndim - 1 - axis % x.ndim
        scale, zero_point = (each.reshape(-1, *[1] * behind) for each in (scale, zero_point))
    whole = torch.iinfo(zero_point.dtype)
    return torch.clamp(torch.round(x / scale) + zero_point, whole.min, whole.max).to(zero_point.dtype)


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@converts("quantize_linear")
def convert_quantize_linear(
    builder: Builder, x: relax.Expr, scale: relax.Expr, zero_point: relax.Expr, axis: int
) -> relax.Expr:
    """ONNX's."""
    dtype = getattr(torch, dtype_of(zero_point))
    whole = torch.iinfo(dtype)
    along = axis if len(shape_of(scale)) else None
    return quantised(builder, x, scale, zero_point, (whole.min, whole.max), dtype, along, dtype_of(zero_point))
