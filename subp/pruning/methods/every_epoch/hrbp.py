"""HRBP and HRBP++: hardware-friendly regrouping of an unstructured mask into blocks, during sparse training
(CPAL 2024, PMLR 234:282-301).

The abstract fixes this much:

- an unstructured mask is reduced to the kernel-wise mask, which keeps kernel (o, i) if any of its weights is kept. A
  kernel is never cut, so blocks survive the transposition of the weight in the backward pass;
- filters whose kernel masks agree become a group, wherever in the layer they stand;
- dense blocks are extracted from each group;
- in HRBP++ the kernels of a block share one pattern of kept positions.

The code was never published. The rest is this project's reading:

- the unstructured mask keeps the largest magnitudes of the layer, at the epoch's pruning rate p_t;
- a group has N filters. `channels.grouping.balanced_groups` finds the groups from the kernel masks. Layers whose
  channels are tied (those that a residual stage adds up) get the same groups, from their kernel masks side by side;
- the filters of a group vote: a channel gets a vote from each filter whose kernel there is kept. The group keeps the
  I - floor(p_t I) channels with most votes, the same number in every group, so that the blocks are uniform. Of equal
  votes the larger L1 norm of the group's kernels wins;
- HRBP++ votes on columns (channel, kernel position) instead, and a group keeps I kh kw - floor(p_t I kh kw) of them.
  The positions kept of one channel are the pattern that the N kernels of this block share; where there are none, the
  block is pruned;
- masks move every epoch until the schedule's end, and gradients reach pruned weights (SR-STE), so that these can come
  back;
- at the end the filters are reordered so that a group's stand side by side, and blocks are of consecutive filters
  (`channels.regrouping`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.every_epoch import magnitude
from subp.pruning.methods.ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor


def step(weight: Tensor, order: Tensor, n: int, pruning_rate: float, patterns: bool) -> Tensor:
    """The mask of one epoch, bool: [O, I], a kernel each; with `patterns` (HRBP++) [O, I, *kernel], the weight's shape.

    order: [O], each n consecutive outputs of which are a group
    """
    kernels = weight.reshape(*weight.shape[:2], -1)  # [O, I, positions]
    kept = magnitude.step(kernels, pruning_rate)
    if patterns:  # columns are what a group keeps or prunes: [O, I * positions]
        kept, norms = kept.flatten(1), kernels.abs().flatten(1)
    else:  # channels are: [O, I]
        kept, norms = kept.any(-1), kernels.abs().sum(-1)
    votes, norms = _group_sums(kept, order, n), _group_sums(norms, order, n)
    # Votes are whole numbers; a norm as a fraction of the group's largest, halved, decides among equal ones only.
    tie_breaks = norms / (2 * norms.amax(1, keepdim=True).clamp_min(1e-30))
    of_groups = keep_best(votes + tie_breaks, pruning_rate)
    mask = kept.new_empty(kept.shape)
    mask[order] = of_groups.repeat_interleave(n, dim=0)
    return mask.reshape(weight.shape if patterns else weight.shape[:2])


def kernel_mask(weight: Tensor, pruning_rate: float) -> Tensor:
    """Bool [O, I]: kernels with a weight among those that the layer's unstructured mask keeps."""
    return magnitude.step(weight.reshape(*weight.shape[:2], -1), pruning_rate).any(-1)


def _group_sums(values: Tensor, order: Tensor, n: int) -> Tensor:
    """[O, C] -> [O / n, C], float32, summed over the outputs of each group."""
    return values[order].float().reshape(len(order) // n, n, -1).sum(1)


def _choose(weight: Tensor, at: MethodStep, patterns: bool) -> Tensor:
    assert at.order is not None  # the method regroups
    return step(weight, at.order, at.n, at.rate, patterns)


METHOD = Method(
    name="hrbp",
    help="uniform 1xN, blocks of filters that are grouped while training",
    prunes="1xN blocks of filters that are grouped while training, each group equally many",
    masks="by vote of a group's filters, see `subp/pruning/methods/every_epoch/hrbp.py`: what the abstract fixes and "
    "what is read into it",
    source="CPAL 2024, PMLR 234:282-301",
    choose=partial(_choose, patterns=False),
    unit="kernel",
    settles=True,
    kernels=kernel_mask,
)

PATTERNS = replace(
    METHOD,
    name="hrbp++",
    help="the same, and parts of kernels",
    prunes="the same, and positions of the kernels",
    masks="the same",
    choose=partial(_choose, patterns=True),
    unit="weight",
)
