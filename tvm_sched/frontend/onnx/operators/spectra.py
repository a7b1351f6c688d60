"""Discrete Fourier transforms of short signals, as products with matrices of cosines and sines; complex numbers are
pairs in the last axis.
"""

import math

import torch
from torch import Tensor

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator, scalar


def matrices(inputs: int, outputs: int, period: int, inverse: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cosines, sines) `[inputs, outputs]` of 2 pi n k / period, negated sines for the transform forward."""
    turns = torch.outer(torch.arange(inputs), torch.arange(outputs)) % period
    angles = turns.to(torch.float64) * (2 * math.pi / period)
    sign, scale = (1, 1 / period) if inverse else (-1, 1)
    return (angles.cos() * scale).to(dtype), (sign * scale * angles.sin()).to(dtype)


def transformed(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`x [..., n, 1 or 2]` -> `[..., k, 2]`."""
    real = x[..., 0]
    if x.shape[-1] == 1:
        return torch.stack([real @ cosines, real @ sines], -1)
    imaginary = x[..., 1]
    return torch.stack([real @ cosines - imaginary @ sines, real @ sines + imaginary @ cosines], -1)


@operator("DFT", fixed=(1, 2))
def dft(node: Node, x: Tensor, length: Numbers = None, axis: Numbers = None) -> Tensor:
    """The transform along an axis, or its inverse; `onesided` only the half that is not mirrored. A one-sided inverse
    mirrors its input.
    """
    axis = (node["axis"] if node.version < 20 else scalar(axis, -2)) % x.ndim
    moved = x.movedim(axis, -2)
    onesided, inverse = bool(node["onesided"]), bool(node["inverse"])
    given = moved.shape[-2]
    period = scalar(length, 2 * (given - 1) if onesided and inverse else given)
    if onesided and inverse:
        return real_inverse(moved, period).movedim(-2, axis)
    moved = moved.narrow(-2, 0, min(given, period))
    count = period // 2 + 1 if onesided else period
    return transformed(moved, *matrices(moved.shape[-2], count, period, inverse, x.dtype)).movedim(-2, axis)


def real_inverse(half: Tensor, period: int) -> Tensor:
    """The real signal `[..., period, 1]` of the half of a spectrum `[..., period // 2 + 1, 2]`."""
    half = half.narrow(-2, 0, min(half.shape[-2], period // 2 + 1))
    count = half.shape[-2]
    cosines, sines = matrices(count, period, period, True, half.dtype)
    twice = torch.full((count, 1), 2.0, dtype=half.dtype)
    twice[0] = 1
    if period % 2 == 0 and count == period // 2 + 1:
        twice[-1] = 1
    return (half[..., 0] @ (twice * cosines) - half[..., 1] @ (twice * sines)).unsqueeze(-1)


@operator("STFT", fixed=(1, 3))
def stft(node: Node, signal: Tensor, step: Numbers, window: Tensor | None = None, length: Numbers = None) -> Tensor:
    """Transforms `[B, frames, k, 2]` of a signal `[B, T, 1 or 2]`, cut into frames, each times the window."""
    size = len(window) if window is not None else scalar(length)
    frames = signal.unfold(1, size, scalar(step)).transpose(-1, -2)  # [B, frames, size, 1 or 2]
    if window is not None:
        frames = frames * window[:, None]
    count = size // 2 + 1 if node["onesided"] else size
    return transformed(frames, *matrices(size, count, size, False, signal.dtype))
