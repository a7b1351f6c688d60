"""HRBP and HRBP++: hardware-friendly regrouping of an unstructured mask into blocks, during sparse training
(CPAL 2024, PMLR 234:282-301).

What the abstract fixes: an unstructured mask is reduced to the kernel-wise mask (is any weight of kernel (o, i) kept?),
so that a kernel is never cut and blocks survive the transposition of the backward pass; filters whose kernel masks
agree are regrouped, not consecutive ones; dense blocks are extracted from each group; and in HRBP++ the kernels of a
block share one pattern of kept positions.

This project's reading, as the code was never published:

- the unstructured mask is that of the largest magnitudes of the layer, at the epoch's pruning rate p_t;
- groups have N filters each, found by `subp.grouping.balanced_groups` on the kernel masks; layers whose channels are
  tied (subp.rearrange: a residual stage) are regrouped alike, by their kernel masks side by side;
- a group keeps the channels that most of its filters keep, by vote, ties by the L1 norm of the group's kernels; every
  group keeps I - floor(p_t I), so that the blocks are uniform;
- HRBP++ votes on columns (channel, kernel position) instead, of which a group keeps I kh kw - floor(p_t I kh kw): the
  positions kept of one channel are the pattern that this block's N kernels share, and it has none where it is pruned;
- masks move every epoch until the schedule's end, and gradients reach pruned weights (SR-STE), so that these come back;
- in the end the groups are folded into the order of the filters, so that blocks are consecutive (subp.regrouping).
"""

import torch
from torch import Tensor

from subp.pruning.methods import magnitude
from subp.pruning.methods.ranking import keep_best


def step(weight: Tensor, order: Tensor, n: int, pruning_rate: float, patterns: bool) -> Tensor:
    """The mask of one epoch, bool: [O, I], a kernel each; with `patterns` (HRBP++) of the weight's shape [O, I,
    *kernel].

    order: [O], each n consecutive outputs of which are a group
    """
    units = weight.reshape(*weight.shape[:2], -1)
    kept = magnitude.step(units, pruning_rate)
    if patterns:
        kept, strength = kept.flatten(1), units.abs().flatten(1)
    else:
        kept, strength = kept.any(-1), units.abs().sum(-1)
    votes, norms = (
        of_filters.float()[order].reshape(len(weight) // n, n, -1).sum(1) for of_filters in (kept, strength)
    )
    mask = keep_best(votes + norms / (2 * norms.amax(1, keepdim=True).clamp_min(1e-30)), pruning_rate)
    spread = torch.empty_like(kept)
    spread[order] = mask.repeat_interleave(n, dim=0)
    return spread.reshape(weight.shape if patterns else weight.shape[:2])


def kernel_mask(weight: Tensor, pruning_rate: float) -> Tensor:
    """Bool [O, I]: kernels with a weight among those that the layer's unstructured mask keeps."""
    return magnitude.step(weight.reshape(*weight.shape[:2], -1), pruning_rate).any(-1)
