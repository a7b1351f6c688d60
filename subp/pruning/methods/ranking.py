"""What several methods share: which are pruned, and a mask of the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.schedules import pruned_count

if TYPE_CHECKING:
    from torch import Tensor


def lowest(scores: Tensor, sparsity: float) -> Tensor:
    """Indices [R, P] of the P = floor(sparsity * C) lowest of each row of scores [R, C], but for one at most.

    Of equal scores the first is the lower.
    """
    return scores.argsort(dim=1, stable=True)[:, : pruned_count(sparsity, scores.shape[1])]


def ranks(scores: Tensor, active: Tensor) -> Tensor:
    """Places [R, C], higher is better: by the scores, but all that are active (bool [R, C]) before all that are not."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1) + scores.shape[1] * active


def in_multiples(mask: Tensor, order: Tensor, multiple: int) -> Tensor:
    """A mask [R, C] of which each row keeps a multiple of so many, its best by `order` [R, C], higher is better.

    All rows together keep what they do in `mask`, rounded down to a multiple. Rows are rounded by largest remainder:
    all down, then one multiple more where most was cut off. A mask that keeps everything, or has fewer columns than the
    multiple, stays.
    """
    import torch

    rows, columns = mask.shape
    if multiple == 1 or columns < multiple or bool(mask.all()):
        return mask
    kept, most = mask.sum(1), columns // multiple
    down = kept.div(multiple, rounding_mode="floor").clamp(max=most)
    # Several turns where rows are full: what they cannot keep goes to the others.
    left = min(int(kept.sum()) // multiple, rows * most) - int(down.sum())
    while left > 0:
        remainder = (kept - down * multiple).where(down < most, torch.iinfo(kept.dtype).min)
        first = remainder.argsort(descending=True, stable=True)[: min(left, int((down < most).sum()))]
        down[first] += 1
        left -= len(first)
    places = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return places < (down * multiple).unsqueeze(1)


def best(scores: Tensor, kept: int) -> Tensor:
    """Bool [R, C]: so many of every row of scores [R, C], its highest."""
    return scores.new_zeros(scores.shape).bool().scatter_(1, scores.topk(kept, dim=1).indices, True)


def keep_best(scores: Tensor, sparsity: float) -> Tensor:
    """Bool [R, C]: every row of scores [R, C] keeps all but its `lowest`."""
    pruned = pruned_count(sparsity, scores.shape[1])
    if pruned == 0:
        return scores.new_ones(scores.shape).bool()
    highest = scores.kthvalue(pruned, dim=1, keepdim=True).values  # of the pruned
    tied = scores == highest
    return (scores > highest) | (tied & (tied.cumsum(1) > pruned - (scores < highest).sum(1, keepdim=True)))
