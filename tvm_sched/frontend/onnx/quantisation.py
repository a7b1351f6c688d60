"""QuantizeLinear and DequantizeLinear with scales of the file: pairs of them around other operators are ONNX's form of
a quantised network (QDQ). Weights stay in 8 bits in the network; biases of int32 are computed when the file is loaded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from subp_contract.errors import UserError
from tvm_sched.frontend.aten import quantised  # noqa: F401, registers what is called here
from tvm_sched.frontend.onnx.operators.registry import Node, operator
from tvm_sched.frontend.onnx.tensors import torch_dtype

EIGHT_BITS = (torch.int8, torch.uint8)
OTHER = "; this compiler takes int8 and uint8 by tensor or by channel: quantise it so"


def scale_of(node: Node, scale: Tensor) -> Tensor:
    """One scale, or one a channel. Raises UserError for those of blocks."""
    if node["block_size"] or scale.ndim > 1:
        raise UserError(f"has scales of blocks{OTHER}")
    return (scale.reshape(()) if scale.numel() == 1 else scale).float()


def zero_of(zero_point: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero points of the scale's shape."""
    return torch.zeros_like(scale, dtype=dtype) if zero_point is None else zero_point.reshape(scale.shape)


@operator("QuantizeLinear")
def quantize_linear(node: Node, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """saturate(round(x / scale) + zero point), halves to even."""
    dtype = torch_dtype(node["output_dtype"]) if node["output_dtype"] else torch.uint8
    dtype = dtype if zero_point is None else zero_point.dtype
    if dtype not in EIGHT_BITS:
        raise UserError(f"quantises to {str(dtype).removeprefix('torch.')}{OTHER}")
    scale = scale_of(node, scale)
    axis = 1 if node["axis"] is None else node["axis"]
    return torch.ops.subp.quantize_linear(x.float(), scale, zero_of(zero_point, scale, dtype), axis)


def is_weight(values: Sequence[Tensor]) -> bool:
    """Whether a known tensor that is dequantised stays in 8 bits."""
    return values[0].dtype in EIGHT_BITS and values[0].ndim > 1


@operator("DequantizeLinear", kept=is_weight)
def dequantize_linear(node: Node, q: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """(q - zero point) * scale, in the scale's type."""
    if q.dtype not in (*EIGHT_BITS, torch.int32):
        raise UserError(f"dequantises {str(q.dtype).removeprefix('torch.')}{OTHER}")
    made, scale = scale.dtype, scale_of(node, scale)
    zero, whole = zero_of(zero_point, scale, torch.int32).to(torch.int32), torch.iinfo(q.dtype)
    ops, limits = torch.ops.quantized_decomposed, (whole.min, whole.max, q.dtype)
    if not scale.ndim:
        return ops.dequantize_per_tensor.tensor(q, scale, zero, *limits).to(made)
    axis = (1 if node["axis"] is None else node["axis"]) % q.ndim
    if q.ndim == 2 and axis == 1:  # a MatMul's weight [I, O]: scales go with the first axis, as of PyTorch's layers
        return ops.dequantize_per_channel(q.t(), scale, zero, 0, *limits).to(made).t()
    return ops.dequantize_per_channel(q, scale, zero, axis, *limits).to(made)
