"""Pools of a quantised network: Relax's windows as `kernels/integer/planar/planar_pool.py` has them, and what their
sums are divided by.
"""

import numpy as np
from tvm import relax, te

from tvm_sched.kernels.base import FUSABLE
from tvm_sched.kernels.integer.planar.planar_pool import Pool
from tvm_sched.passes.graph.relax_tools import shape_of


def pool_of(call: relax.Call) -> Pool | None:
    """The windows of a max_pool2d or avg_pool2d over `[B, C, H, W]`; None for another layout, or dilation."""
    attrs = call.attrs
    if attrs.layout != "NCHW" or tuple(map(int, attrs.dilation)) != (1, 1):
        return None
    window, stride, padding = (tuple(map(int, each)) for each in (attrs.pool_size, attrs.strides, attrs.padding))
    return Pool(window, stride, padding[:2], shape_of(call.args[0])[2:], shape_of(call)[2:])


def adaptive_pool(call: relax.Call) -> Pool | None:
    """Those of an adaptive_avg_pool2d whose windows do not overlap."""
    image, output = shape_of(call.args[0])[2:], shape_of(call)[2:]
    if call.attrs.layout != "NCHW" or any(size % out for size, out in zip(image, output, strict=True)):
        return None
    window = (image[0] // output[0], image[1] // output[1])
    return Pool(window, window, (0, 0), image, output)


def divisors(call: relax.Call, pool: Pool) -> np.ndarray:
    """What PyTorch divides the sums of an avg_pool2d's windows by, `[H', W']` or one number: the pixels in a window,
    with those of the margin as asked, but for what `ceil_mode` lets it reach beyond.
    """
    padding, counted = tuple(map(int, call.attrs.padding)), bool(call.attrs.count_include_pad)
    sizes = []
    for axis in range(2):
        first = np.arange(pool.output[axis]) * pool.stride[axis] - pool.padding[axis]
        end = np.minimum(first + pool.window[axis], pool.image[axis] + (padding[axis + 2] if counted else 0))
        sizes.append(end - (first if counted else np.maximum(first, 0)))
    found = np.outer(*sizes).astype("float64")
    return found[0, 0] if (found == found[0, 0]).all() else found


def image_sums(builder: relax.BlockBuilder, x: relax.Expr, keep: bool) -> relax.Expr:
    """The sums int32 `[B, C]`, or `[B, C, 1, 1]`, of the images `x [B, C, H, W]` of 8 bits."""
    made = builder.call_te(_image_sums, x, keep=keep, primfunc_name_hint="image_sums", primfunc_attrs=FUSABLE)
    return builder.emit(made)


def _image_sums(x: te.Tensor, keep: bool) -> te.Tensor:
    """The algorithm."""
    h, w = (te.reduce_axis((0, int(extent))) for extent in x.shape[2:])

    def total(b, c, *_):
        return te.sum(x[b, c, h, w].astype("int32"), axis=[h, w])

    return te.compute((*x.shape[:2], *([1, 1] if keep else [])), total, name="image_sums")
