"""ONNX's tensors and their types as PyTorch's."""

import math

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from subp_contract.documents import shown
from subp_contract.errors import UserError, first_line, require

LARGEST = 2**28  # numbers of a sparse tensor, with its zeros

# Of unsigned numbers PyTorch computes with bytes alone.
_TYPES = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
TORCH_DTYPES = {TensorProto.DataType.Value(name): dtype for name, dtype in _TYPES.items()}
ONNX_DTYPES = {dtype: number for number, dtype in TORCH_DTYPES.items()}


def torch_dtype(number: int) -> torch.dtype:
    """PyTorch's type for ONNX's. Raises UserError where it has none, as for strings."""
    if number not in TORCH_DTYPES:
        name = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"type {number}"
        raise UserError(f"uses tensors of {name}, which this compiler does not take")
    return TORCH_DTYPES[number]


def tensor_of(proto: onnx.TensorProto) -> torch.Tensor:
    """The tensor that a file holds, copied out of it. Raises UserError for types that PyTorch has not."""
    torch_dtype(proto.data_type)
    try:
        return tensor_from(numpy_helper.to_array(proto))
    except (ValueError, TypeError, MemoryError) as error:
        told = shown(f"{proto.name}' is damaged ({first_line(error)}")
        raise UserError(f"the file's tensor '{told}): export the network again") from None


def tensor_from(array: np.ndarray) -> torch.Tensor:
    """A copy of an array, whose type may be one of ml_dtypes. Raises UserError for types that PyTorch has not."""
    dtype = torch_dtype(helper.np_dtype_to_tensor_dtype(array.dtype))
    if dtype.is_floating_point and array.dtype.kind != "f":  # ml_dtypes' own, which PyTorch does not know
        return torch.from_numpy(array.view(f"i{array.itemsize}").copy()).view(dtype)
    return torch.from_numpy(np.array(array, order="C"))


def dense_tensor_of(proto: onnx.SparseTensorProto) -> torch.Tensor:
    """A sparse tensor with its zeros. Its indices are one number of the flattened tensor each, or one an axis."""
    values, indices = tensor_of(proto.values), tensor_of(proto.indices)
    require(
        0 <= math.prod(proto.dims) <= LARGEST and min(proto.dims, default=0) >= 0,
        f"the file's sparse tensor '{shown(proto.values.name)}' is of the shape {list(proto.dims)[:8]}, too large",
    )
    dense = torch.zeros(tuple(proto.dims), dtype=values.dtype)
    if indices.ndim == 1:
        dense.view(-1)[indices] = values
    else:
        dense[tuple(indices.t())] = values
    return dense
