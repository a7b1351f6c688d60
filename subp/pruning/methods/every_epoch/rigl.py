"""RigL by uniform blocks (Evci et al., arXiv 1911.11134; of structured masks SRigL: Lasby et al., arXiv 2305.02299).

The network is sparse from the first epoch to the last. Of each group's K = C - floor(p C) kept blocks a step drops the
k of least norm, and grows k of the others, those whose mean gradient has the largest norm:

    k = floor(f_t K),   f_t = (swapped / 2) (1 + cos(pi t / T)),   T the schedule's end; from then on masks stay.

What is read into it: a whole block competes, by the norm of its weights and of its gradients, with the blocks of its
group alone, as SRigL's weights compete within a constant fan-in. A step is an epoch, as everywhere here, not 100
iterations, and its gradients are the mean of the epoch, not one batch's. Grown blocks begin at zero, as theirs do; a
block that is dropped may be grown at once, as in their code, and the first mask is a random uniform one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.once import random_uniform
from subp.pruning.schedules import count

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Swapping(Hyperparameters):
    """How much moves at first."""

    swapped: float = hyperparameter(
        0.3,
        "Share of a group's kept blocks that rigl swaps for others in its first step.",
        lambda swapped: 0 <= swapped < 1,
        "it is a fraction in [0, 1)",
    )


def step(norms: Tensor, gradients: Tensor, active: Tensor, share: float) -> Tensor:
    """The mask of one epoch, bool [G, I]; each group keeps as many blocks as before, its best by norm among them.

    norms, gradients:  [G, I], of each block's weights and mean gradient
    active:            bool [G, I], the mask until now, equally many in each group
    share:             f_t, the fraction of them that is swapped, in [0, 1)
    """
    kept = int(active[0].sum())
    swapped = min(count(share, kept), norms.shape[1] - kept)
    best = norms.where(active, -1).topk(kept - swapped, dim=1).indices
    mask = active.new_zeros(active.shape).scatter_(1, best, True)
    return mask.scatter_(1, gradients.masked_fill(mask, -1).topk(swapped, dim=1).indices, True)


def swapped_share(swapped: float, epoch: int, end: int) -> float:
    """f_t: from `swapped` at epoch 0, by half a cosine, to 0 from epoch `end` on."""
    return swapped / 2 * (1 + math.cos(math.pi * epoch / end)) if epoch < end else 0.0


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    assert at.active is not None and at.gradient is not None  # its scoring and `needs_gradients`
    first = random_uniform.step(weight.shape[0] // at.n, weight.shape[1], at.sparsity, at.generator)
    if int(at.active.sum()) != int(first.sum()):
        return first
    norms, gradients = (to_blocks(each, at.n).float().norm(dim=-1) for each in (weight, at.gradient))
    if not gradients.any():  # nothing was trained since the step before
        return at.active
    return step(norms, gradients, at.active, swapped_share(at.options.swapped, at.epoch, at.span[1]))


METHOD = Method(
    name="rigl",
    help="uniform 1xN, dropped by norm and grown by gradient",
    prunes="1xN blocks, each group equally many, from the first epoch on",
    masks="floor(f_t K) of a group's K kept blocks, those of least norm, swapped for those of largest mean gradient",
    source="after RigL, arXiv 1911.11134, and SRigL, 2305.02299",
    choose=_choose,
    options=Swapping,
    needs_gradients=True,
    scorings=("active",),
    soft=False,
    returns_zero=True,
)
