"""The 1xN block view of a weight, and what a mask over blocks says about it.

Block (g, i) of a weight [O, I, *kernel]: the n consecutive outputs g*n .. g*n+n-1 at one input channel i, with their
whole kernels. A layer has G = O/n groups of I blocks; a block mask [G, I] (bool, True = kept) is uniform if every group
keeps the same number. How a step moved them:

    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    sparsifier.step(epoch)
    churn_by_layer(before, sparsifier.masks)  # {"layer1.0.conv1": Churn(kept=64, of=256, pruned=12, grown=12), ...}

A grouped convolution's weight is [O, I/groups, *kernel]: the same view holds as long as no block
straddles two convolution groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Churn(NamedTuple):
    """How one mask moved, in blocks (or the method's other units): `kept` after, `of` all; `pruned` were kept before
    and are not after, `grown` the other way round. So kept before is kept + pruned - grown.
    """

    kept: int
    of: int
    pruned: int
    grown: int


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


def density(mask: Tensor) -> float:
    """The fraction of blocks (of any mask's units) that are kept: 1 - sparsity."""
    return mask.sum().item() / mask.numel()


def churn(before: Tensor, after: Tensor) -> Churn:
    """From one mask, bool of any shape, to another of that shape."""
    kept, pruned, grown = (int(each.sum()) for each in (after, before & ~after, after & ~before))
    return Churn(kept, after.numel(), pruned, grown)


def churn_by_layer(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Churn]:
    """Layer name -> its churn, of all layers; empty where no layer's mask is another than before."""
    found = {name: churn(before[name], mask) for name, mask in after.items()}
    return found if any(each.pruned or each.grown for each in found.values()) else {}
