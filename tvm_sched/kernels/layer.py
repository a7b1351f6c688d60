"""A convolution or linear layer of a network, as it is offered to the kernels."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from subp_contract import pattern
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.integer.bfloats import BITS


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution `[B, H, W, C] -> [B, H', W', O]`, or a linear layer `[..., C] -> [..., O]`: one row of pixels."""

    op: str  # in words
    weight: np.ndarray  # [O, C / groups, kh, kw]
    output: tuple[int, ...]  # shape of the result
    channels: int  # of the input
    groups: int = 1  # that the channels are divided into
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    linear: bool = False
    dtype: str = "float32"  # of its data
    dense: bool = False  # its zeros are to be ignored
    # dtypes of 16 bits in which its weights may be stored, beside the data's own (None)
    weight_types: tuple[str | None, ...] = (None,)
    input_image: tuple[int, int] = (1, 1)  # (rows, columns) of the input
    zero_point: int = 0  # of quantised data: what the image is padded with
    filled: bool = False  # the image that it is given has channels of zeros besides, up to whole vectors

    @property
    def image(self) -> tuple[int, int, int]:
        """(images, rows, columns) of the output."""
        if self.linear:
            return 1, 1, prod(self.output[:-1])
        images, rows, columns = self.output[:3]
        return images, rows, columns

    @property
    def kernel(self) -> tuple[int, int]:
        """(height, width) of the convolution's kernel."""
        return self.weight.shape[2:]

    @property
    def out_channels(self) -> int:
        """O."""
        return len(self.weight)

    @property
    def precision(self) -> str:
        """What it is computed in, as a word of `precision=`."""
        return {"uint8": "int8", BITS: "bfloat16"}.get(self.dtype, self.dtype)

    @property
    def depthwise(self) -> bool:
        """Each channel has one kernel of its own."""
        return not self.linear and self.groups == self.channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer, the whole batch."""
        return prod(self.image) * self.weight.size

    @cached_property
    def zeros(self) -> pattern.Pattern | None:
        """The 1xN pattern of its zeros, not counting those between channel groups; None without one."""
        return pattern.find(self.used, self.groups)

    @cached_property
    def used(self) -> np.ndarray:
        """Which kernels `[O, C / groups]` count as nonzero."""
        return pattern.occupancy(self.weight, ignore_zeros=self.dense)

    @property
    def density(self) -> float:
        """The fraction of the pattern's blocks that are kept; 1 without a pattern."""
        return float(pattern.kept_blocks(self.used, self.zeros.n).mean()) if self.zeros else 1.0

    @cached_property
    def ungrouped(self) -> np.ndarray:
        """The weight as that of an ungrouped convolution, `[O, C, kh, kw]`, zero between channel groups."""
        return pattern.ungroup(self.weight, self.groups)

    @cached_property
    def kept(self) -> dict[int, np.ndarray]:
        """By block size, which blocks `[ceil(O / N), C]` must be computed."""
        used = pattern.ungroup(self.used, self.groups)
        return {n: pattern.kept_blocks(used, n) for n in pattern.SIZES}

    def problem(self, n: int, weights: str | None = None) -> ConvProblem:
        """The layer in blocks of n, stored as `weights`; every block row is as long as the longest."""
        kept = longest_row(self.kept[n])
        return ConvProblem(
            *self.image,
            self.channels,
            len(self.kept[n]),
            kept,
            n,
            self.kernel,
            self.stride,
            padded=any(self.padding),
            indexed=kept < self.channels,
            weights=weights,
        )


def longest_row(kept: np.ndarray) -> int:
    """The most blocks that a block row of `kept [G, C]` keeps, at least 1."""
    return max(1, int(kept.sum(axis=1).max()))
