"""Space-to-depth: a strided convolution as one of stride 1, each offset of the image in steps of S being channels of
its own.

Of a stride S, output h, w meets input rows h*S + y for taps y = 0 ... kernel-1. With y = r*S + py these are the rows
h + r of offset py, the image of every S-th row from py on. So with S*S*C channels the convolution has ceil(kernel / S)
taps and stride 1, and what is fast for stride 1 serves it: a 7x7 stem of stride 2 becomes 4x4 with 12 channels, which
Winograd computes with a third of the multiplications.

    deep[b, u, v, (py*S + px)*C + c] = x[b, u*S + py - top, v*S + px - left, c],   0 outside the image
    weight'[o, (py*S + px)*C + c, r, q] = weight[o, c, r*S + py, q*S + px],         0 beyond the kernel

It is a transformation before a kernel, not a kernel: there is one way to do it, and nothing to tune.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.base import KERNEL_MARK
from tvm_sched.kernels.fusion import find_block, finish
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.rewrites.loops import partition
from tvm_sched.targets import Target

NAME = "space_to_depth"
INJECTIVE = {"op_pattern": 2}  # TVM's kInjective: a permutation before it is done on the way


@dataclass(frozen=True, eq=False)
class SpaceToDepth:
    """A layer after the transformation, and what its image takes."""

    layer: Layer  # of stride 1, without padding
    stride: int
    padding: tuple[int, int]  # top, left
    shape: tuple[int, int, int]  # (rows, columns, channels) of the image; whole vectors of channels
    cycles: float  # to make the image, by estimate

    @classmethod
    def of(cls, layer: Layer, target: Target) -> "SpaceToDepth | None":
        """The transformed layer; None for one that has nothing to gain, or no square kernel."""
        stride, size = layer.stride[0], layer.kernel[0]
        square = layer.stride == (stride, stride) and layer.kernel == (size, size)
        if stride == 1 or not square or layer.groups > 1 or layer.dilation != (1, 1):
            return None
        weight = deep_weight(layer.weight, stride)
        channels, taps = weight.shape[1:3]
        batch, height, width = layer.image
        shape = height + taps - 1, width + taps - 1, ceil(channels / target.lanes) * target.lanes
        single = layer.channels < target.lanes  # one number at a time
        each = target.costs.gather_cycles if single else target.costs.rearrange_cycles / target.lanes
        made = replace(layer, weight=weight, channels=channels, stride=(1, 1), padding=(0,) * 4, filled=True)
        return cls(made, stride, layer.padding[:2], shape, batch * shape[0] * shape[1] * shape[2] * each)

    def call(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Var:
        """The image `[B, *shape]` of `x [B, H, W, C]`."""
        made = partial(compute, stride=self.stride, padding=self.padding, shape=self.shape, marks={KERNEL_MARK: NAME})
        return builder.emit_te(made, x, primfunc_name_hint=NAME, primfunc_attrs=INJECTIVE)


def compute(
    x: te.Tensor, *, stride: int, padding: tuple[int, int], shape: tuple[int, int, int], marks: dict | None = None
) -> te.Tensor:
    """`x [B, H, W, C]` -> `[B, *shape]`, `shape` being (rows, columns, channels); channels beyond S*S*C are zero.
    `padding` is (top, left); `marks` become the block's attributes.
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    top, left = padding

    def element(b, u, v, p):
        offset, c = p // channels, p % channels
        h, w = u * stride + offset // stride - top, v * stride + offset % stride - left
        inside = tirx.all(p < stride * stride * channels, h >= 0, h < height, w >= 0, w < width)
        return tirx.if_then_else(inside, x[b, h, w, c], tirx.const(0, x.dtype))

    return te.compute((batch, *shape), element, name=NAME, attrs=marks or {})


def deep_weight(weight: np.ndarray, stride: int) -> np.ndarray:
    """`[O, C, k, k]` -> `[O, S*S*C, r, r]`, r = ceil(k / S)."""
    out_channels, channels, size, _ = weight.shape
    taps = ceil(size / stride)
    padded = np.zeros((out_channels, channels, taps * stride, taps * stride), weight.dtype)
    padded[:, :, :size, :size] = weight
    split = padded.reshape(out_channels, channels, taps, stride, taps, stride)
    return np.ascontiguousarray(
        split.transpose(0, 3, 5, 1, 2, 4).reshape(out_channels, stride * stride * channels, taps, taps)
    )


def schedule(sch: Schedule, target: Target) -> None:
    """A pixel's channels are unrolled, so that where each comes from is known; the image's border gets its own code."""
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
