"""ST-3 by uniform blocks (Vanderschueren & De Vleeschouwer, arXiv 2212.01076): soft threshold, straight-through
gradient, the fraction pruned climbing while the network trains.

At every forward pass in training each group prunes its floor(p_t I) blocks of least L2 norm, shrinks the others by the
largest norm pruned, and is scaled up again (soft_threshold.py has the formulas). So masks change without a jump: a
block is zero when it goes, and when it comes back. Gradients pass straight through, to pruned blocks too.

What is read into it: a block competes, by its norm, with those of its group alone, where the paper has one threshold
for all weights of the network, or of a layer (ST-3-sigma). p_t moves once an epoch, as everywhere here, not with every
step, and by the usual cubic by default. The pull on pruned weights (`decay`) is this project's; 0 is the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import best, keep_best

if TYPE_CHECKING:
    from torch import Tensor


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return keep_best(at.score(to_blocks(weight, at.n)), at.rate)


def _follow(weight: Tensor, at: MethodStep) -> Tensor:
    """As many blocks of each group as its mask keeps since the epoch's step."""
    assert at.active is not None
    return best(at.score(to_blocks(weight, at.n)), int(at.active[0].sum()))


METHOD = Method(
    name="st-3",
    help="uniform 1xN that follows the weights, without a jump",
    prunes="1xN blocks, each group equally many",
    masks="the floor(p_t I) of least norm of each group, at every forward pass; the others shrunk by the largest of "
    "those norms",
    source="after ST-3, arXiv 2212.01076",
    choose=_choose,
    follow=_follow,
    shrinks=True,
    criteria=("l2",),
    scorings=("weight",),
)
