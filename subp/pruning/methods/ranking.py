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


def keep_best(scores: Tensor, sparsity: float) -> Tensor:
    """Bool [R, C]: every row of scores [R, C] keeps all but its `lowest`."""
    pruned = pruned_count(sparsity, scores.shape[1])
    if pruned == 0:
        return scores.new_ones(scores.shape).bool()
    highest = scores.kthvalue(pruned, dim=1, keepdim=True).values  # of the pruned
    tied = scores == highest
    return (scores > highest) | (tied & (tied.cumsum(1) > pruned - (scores < highest).sum(1, keepdim=True)))
