"""A strided convolution as one of stride 1: each phase of the image is a channel of its own.

Of a stride S, output h, w meets input rows h*S + y for taps y = 0 ... kernel-1. With y = r*S + py these are the rows h
+ r of phase py, the image of every S-th row from py on. So with S*S*C channels the convolution has ceil(kernel / S)
taps and stride 1, and what is fast for stride 1 serves it: a 7x7 stem of stride 2 becomes 4x4 with 12 channels, which
Winograd computes with a third of the multiplications.

    phases[b, u, v, (py*S + px)*C + c] = x[b, u*S + py - top, v*S + px - left, c],   0 outside the image
    weight'[o, (py*S + px)*C + c, r, q] = weight[o, c, r*S + py, q*S + px],          0 beyond the kernel
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.rewrites.fusion import find_block, finish
from tvm_sched.kernels.rewrites.loops import partition
from tvm_sched.targets import Target

NAME = "phases"


def compute(x, *, stride: int, padding: tuple[int, int], shape: tuple[int, int, int]):
    """`x [B, H, W, C]` -> `[B, *shape]`, `shape` being (rows, columns, channels); channels beyond S*S*C are zero.
    `padding` is (top, left).
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    top, left = padding

    def element(b, u, v, p):
        phase, c = p // channels, p % channels
        h, w = u * stride + phase // stride - top, v * stride + phase % stride - left
        inside = tirx.all(p < stride * stride * channels, h >= 0, h < height, w >= 0, w < width)
        return tirx.if_then_else(inside, x[b, h, w, c], tirx.const(0, x.dtype))

    return te.compute((batch, *shape), element, name=NAME)


def phase_weight(weight: np.ndarray, stride: int) -> np.ndarray:
    """`[O, C, k, k]` -> `[O, S*S*C, r, r]`, r = ceil(k / S)."""
    out_channels, channels, size, _ = weight.shape
    taps = ceil(size / stride)
    padded = np.zeros((out_channels, channels, taps * stride, taps * stride), weight.dtype)
    padded[:, :, :size, :size] = weight
    split = padded.reshape(out_channels, channels, taps, stride, taps, stride)
    return np.ascontiguousarray(
        split.transpose(0, 3, 5, 1, 2, 4).reshape(out_channels, stride * stride * channels, taps, taps)
    )


def cycles(shape: tuple[int, int, int, int], channels: int, target: Target) -> float:
    """Estimated cycles to make phases of `shape`: one number at a time where a pixel has fewer channels than a vector
    has lanes.
    """
    batch, rows, cols, phase_channels = shape
    return batch * rows * cols * phase_channels * (1 if channels < target.lanes else 2 / target.lanes)


@dataclass(frozen=True)
class Rows:
    """The one way to do it: rows of the result for the threads."""

    def __str__(self):
        return "row by row"


def tiles(sch: Schedule, target: Target) -> list[Rows] | None:
    """The one knob; None for a function that is not this kernel's."""
    return None if find_block(sch, NAME) is None else [Rows()]


def schedule(sch: Schedule, tile: Rows, target: Target):
    """A pixel's channels are unrolled, so that where each comes from is known; the image's border gets code of its own."""
    block = find_block(sch, NAME)
    for producer in sch.get_producers(block):  # the permutation to channels last
        sch.compute_inline(producer)
    image, row, col, channel = sch.get_loops(block)
    if int(sch.get(channel).extent) > target.lanes:
        channel, lane = sch.split(channel, [None, target.lanes])
        sch.vectorize(lane)
    else:
        sch.unroll(channel)
    partition(sch, col)
    sch.parallel(sch.fuse(image, row))
    finish(sch, target)
