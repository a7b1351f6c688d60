"""1xN pruning of a pretrained network (Lin et al., TPAMI 2022, arXiv 2105.14713): one shot, then training under the
mask.

    score of block (g, i) = |w_{g,i}|_1;   the floor(p * G * I) lowest of the whole layer are pruned.

So groups keep different numbers of blocks. The uniform variant ranks within each group instead, as the CPU's threads
like it. The paper first rearranges the filters by their L1 norms, so that strong ones share blocks: that is
`rearrange.by_l1_norm`, folded into the weights before the masks are put on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import in_multiples, keep_best

if TYPE_CHECKING:
    from torch import Tensor


def step(scores: Tensor, sparsity: float, uniform: bool, multiple: int = 1) -> Tensor:
    """The mask, bool [G, I], from block scores [G, I], higher is better. Of a layer, or of a group, one block stays;
    and each group of a layer that is ranked as a whole keeps a multiple of so many.
    """
    if uniform:
        return keep_best(scores, sparsity)
    return in_multiples(keep_best(scores.reshape(1, -1), sparsity).reshape(scores.shape), scores, multiple)


def _choose(weight: Tensor, at: MethodStep, uniform: bool) -> Tensor:
    return step(at.score(to_blocks(weight, at.n)), at.rate, uniform, at.multiple)


METHOD = Method(
    name="one-by-n",
    help="1xN ranked over a layer, at once, for a network that --weights brings",
    prunes="1xN blocks, by layer",
    masks="once, the floor(p G I) of least L1 norm",
    source="1xN, arXiv 2105.14713",
    choose=partial(_choose, uniform=False),
    ranks_layer=True,
    rounds_groups=True,
    settles=True,
    one_shot=True,
    soft=False,
    criteria=("l1", "l2"),
)

UNIFORM = replace(
    METHOD,
    name="one-by-n-uniform",
    help="the same, ranked in each group",
    prunes="1xN blocks, each group equally many",
    masks="once, the floor(p I) of least L1 norm of each group",
    source="after the same",
    choose=partial(_choose, uniform=True),
    ranks_layer=False,
    rounds_groups=False,
    criteria=("l1", "l2", "bpar"),
)
