"""The arguments of a function or an intrinsic that TVM's IRBuilder is building: each call declares the next one."""

from collections.abc import Sequence

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer


def array(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    """A whole array of that shape, contiguous."""
    return IRBuilder.name(name, T.arg(name, T.buffer(tuple(shape), dtype)))


def strided(name: str, shape: Sequence[int], dtype: str, scope: str) -> Buffer:
    """A part of an array, as an intrinsic gets it: rows anywhere apart, each contiguous."""
    handle, strides = T.arg(name, T.handle()), [*(T.int32() for _ in shape[1:]), 1]
    buffer = T.match_buffer(handle, tuple(shape), dtype, strides=strides, offset_factor=1, scope=scope)
    return IRBuilder.name(name, buffer)
