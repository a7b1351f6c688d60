"""The 1xN block view of a weight, and what a mask over blocks says about it.

Block (g, i) of a weight [O, I, *kernel]: the n consecutive outputs g*n .. g*n+n-1 at one input channel i, with their
whole kernels. A layer has G = O/n groups of I blocks; a block mask [G, I] (bool, True = kept) is uniform if every group
keeps the same number. A grouped convolution's weight is [O, I/groups, *kernel]: the same view holds as long as no block
straddles two convolution groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def to_blocks(weight: Tensor, n: int) -> Tensor:
    """[O, I, *kernel] -> [O/n, I, n * kernel positions]. Raises ValueError where n does not divide O."""
    out_channels, in_channels = weight.shape[:2]
    if out_channels % n:
        raise ValueError(f"{out_channels} output channels do not divide into blocks of {n}")
    return weight.reshape(out_channels // n, n, in_channels, -1).transpose(1, 2).flatten(2)


def expand_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A mask that broadcasts to a weight of `shape` [O, I, *kernel], from one of any unit.

    Rows of the mask stand for equally many consecutive outputs each; its other dimensions, from the left, are the
    weight's own or 1: a block mask [G, I] becomes [O, I, 1, ...], a filter mask [O, 1] [O, 1, 1, ...].
    """
    rows = mask.repeat_interleave(shape[0] // mask.shape[0], dim=0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - rows.ndim))


def unit_sums(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums, of `shape`, of values [O, I, *kernel] over each unit of a mask of that shape: over the weights to which
    `expand_mask` spreads the unit's element.
    """
    rows = values.reshape(shape[0], -1, *values.shape[1:]).sum(1)
    return rows.sum_to_size(*shape, *[1] * (rows.ndim - len(shape))).reshape(shape)


def nonzero_blocks(weight: Tensor, n: int) -> Tensor:
    """[G, I], bool: the blocks of `weight` that hold any nonzero."""
    return (to_blocks(weight, n) != 0).any(-1)


def density(mask: Tensor) -> float:
    """The fraction of blocks (of any mask's units) that are kept: 1 - sparsity."""
    return mask.sum().item() / mask.numel()


def is_uniform(mask: Tensor) -> bool:
    """Whether every group of the mask [G, I] keeps the same number of blocks."""
    kept = mask.sum(1)
    return bool((kept == kept[0]).all())
