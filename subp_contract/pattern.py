"""Finds the 1xN pattern in a dense weight's zeros, and packs it as uniform block-sparse rows.

A block is N consecutive output channels at one input channel, whole kernels. Nothing but the weight is needed: whoever
trained the network, its zeros tell. A grouped convolution is block-sparse too: its blocks outside the group are zero
(`ungroup`).
"""

from dataclasses import dataclass

import numpy as np

SIZES = (64, 32, 16, 8, 4)  # block sizes looked for, largest first


@dataclass(frozen=True)
class Pattern:
    """What the zeros of a weight `[O, C, kh, kw]` are: blocks of `n`, of which a block row keeps `least` to `most` of
    `total`.
    """

    n: int
    least: int
    most: int
    total: int

    @property
    def uniform(self) -> bool:
        """Every block row keeps the same number of blocks."""
        return self.least == self.most


def occupancy(weight: np.ndarray, groups: int = 1, ignore_zeros: bool = False) -> np.ndarray:
    """Which kernels `[O, C]` of a (grouped) convolution's weight `[O, C / groups, kh, kw]` hold a nonzero, or may with
    `ignore_zeros`.
    """
    used = np.ones(weight.shape[:2], bool) if ignore_zeros else (weight != 0).any(axis=tuple(range(2, weight.ndim)))
    return ungroup(used, groups)


def ungroup(weight: np.ndarray, groups: int) -> np.ndarray:
    """`[O, C / groups, ...]` of a grouped convolution as the `[O, C, ...]` of an ungrouped one, zero outside its
    groups.
    """
    if groups == 1:
        return weight
    out_channels, group_channels, *kernel = weight.shape
    full = np.zeros((out_channels, group_channels * groups, *kernel), weight.dtype)
    rows = out_channels // groups
    for group in range(groups):
        part = slice(group * rows, (group + 1) * rows)
        full[part, group * group_channels : (group + 1) * group_channels] = weight[part]
    return full


def kept_blocks(used: np.ndarray, n: int) -> np.ndarray:
    """Which blocks of `n` output channels have a used kernel: `[O, C]` -> `[ceil(O / n), C]`, bool."""
    return np.logical_or.reduceat(used, np.arange(0, len(used), n), axis=0)


def find(used: np.ndarray, groups: int = 1) -> Pattern | None:
    """The pattern that explains the zeros: the largest blocks among which the share of kept ones is least, or as good
    as least (part of a kept block may have died in training). None without a block of zeros. A block does not straddle
    the `groups` of a grouped convolution.
    """
    density = {n: kept_blocks(used, n).mean() for n in SIZES if len(used) // groups % n == 0}
    if not density or min(density.values()) == 1:
        return None
    least = min(density.values())
    good = [n for n in density if density[n] <= 1.02 * least and 1 - density[n] >= 0.98 * (1 - least)]
    n = max(good)
    kept = kept_blocks(used, n).sum(axis=1)
    return Pattern(n, int(kept.min()), int(kept.max()), used.shape[1])


def pack(weight: np.ndarray, kept: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Uniform block-sparse rows of a weight `[O, C, kh, kw]` whose blocks of `n`, `kept [G, C]`, are kept.

    Returns data `[G, K, kh, kw, n]` and indices `[G, K]` int32, sorted in each row; G = ceil(O / n), and K is the most
    that any block row keeps, at least 1. Shorter rows are filled with blocks that are not kept, which hold zeros, and
    so are the output channels beyond O. Where all channels are kept the indices are None.
    """
    out_channels, channels, *kernel = weight.shape
    block_rows = len(kept)
    most = max(1, int(kept.sum(axis=1).max()))
    padded = np.zeros((block_rows * n, *weight.shape[1:]), weight.dtype)
    padded[:out_channels] = weight
    blocks = padded.reshape(block_rows, n, channels, *kernel)
    # Kept ones first, then the lowest others.
    indices = np.sort(np.argsort(~kept, axis=1, kind="stable")[:, :most], axis=1)
    data = np.moveaxis(np.take_along_axis(blocks, indices.reshape(block_rows, 1, most, 1, 1), axis=2), 1, -1)
    return np.ascontiguousarray(data), None if most == channels else indices.astype(np.int32)
