"""Direct convolution over columns of a weight: lanes over the N output channels of a block, NHWC.

A column is an input channel at one kernel position. Where the kernels of a block share a pattern of kept positions, a
group of N outputs keeps K columns, any positions of any channels, and the others cost nothing:

    y[b, h, w, g*N + lane] = sum_k data[g, k, lane] * x[b, h*S + row - P, w*S + col - P, channel],      row, col, channel = columns[g, k]

`x [B, H, W, C]`, `data [G, K, 1, 1, N]`, `columns [G, K, 3]` int32, sorted in each group, `y [B, H', W', O]`, G =
ceil(O / N). Row and column of a dilated kernel are those of its pixels. It is the direct kernel of a 1x1 convolution
whose index says where in the image too: its tiles and its schedule are that one's.
"""

from dataclasses import replace

import numpy as np
from tvm import te

from tvm_sched.kernels import direct_conv2d, register_tile
from tvm_sched.kernels.register_tile import Work
from tvm_sched.kernels.rewrites.loops import output_size
from tvm_sched.targets import Target

NAME = "columns_conv2d"  # of the function; its block is direct_conv2d's


def compute(x, data, columns, *, out_channels, kernel, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """The algorithm, free of any order. `kernel` is (height, width) of the whole one, `padding` (top, left, bottom,
    right).
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    groups, kept, _, _, n = (int(extent) for extent in data.shape)
    out_height, out_width = output_size((height, width), kernel, stride, padding, dilation)
    padded = direct_conv2d.pad(x, padding)
    k = te.reduce_axis((0, kept), "k")

    def product(b, h, w, o):
        row, col, channel = (columns[o // n, k, part] for part in range(3))
        return te.sum(
            data[o // n, k, 0, 0, o % n] * padded[b, h * stride[0] + row, w * stride[1] + col, channel], axis=[k]
        )

    work = Work(batch, out_height, out_width, channels, groups, kept, n, stride=tuple(stride), padded=True)
    y = te.compute(
        (batch, out_height, out_width, groups * n), product, name=direct_conv2d.NAME, attrs=work.attributes()
    )
    return direct_conv2d.cut(y, out_channels)


def matrix(weight: np.ndarray) -> np.ndarray:
    """A weight `[O, C, kh, kw]` as that of a 1x1 convolution of its columns, `[O, kh * kw * C, 1, 1]`: rows of the
    image first, channels last.
    """
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)


def places(
    indices: np.ndarray, channels: int, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """(row, column, channel) `[G, K, 3]` of columns `[G, K]` as `matrix` numbers them."""
    row, col, channel = np.unravel_index(indices, (*kernel, channels))
    return np.stack([row * dilation[0], col * dilation[1], channel], axis=-1).astype("int32")


def estimate(work: Work, target: Target) -> float:
    """Cycles of the best tile; `work` as of the whole kernel, but for `kept`: columns. An index is three numbers here."""
    work = replace(work, kernel=(1, 1), padded=True, indexed=True)
    tile = register_tile.candidates(work, target, most=1)[0]
    steps = work.groups * work.kept * work.batch * work.height * work.width / (tile.rows * tile.cols)
    return register_tile.cycles(work, tile, target) + 2 * steps / target.loads_per_cycle / target.cores
