"""Non-uniform 1xN: SUBP's step with one ranking over the whole layer instead of one in each group.

A layer keeps as many blocks as under SUBP, but a group as many as rank among them, none at all perhaps: what uniformity
costs is the difference in accuracy to SUBP with the same criterion. The criterion must compare across groups, as L1
does and bpar, whose shares add up to 1 in every group, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.methods import subp
from subp.pruning.methods.base import Method, MethodStep

if TYPE_CHECKING:
    from torch import Generator, Tensor


def step(
    scores: Tensor, sparsity: float, pruning_rate: float, tau: float, generator: Generator, active: Tensor | None = None
) -> Tensor:
    """The mask of one epoch, bool [G, I], from scores [G, I]; the arguments are those of `subp.step`."""
    whole = None if active is None else active.reshape(1, -1)
    ranked = subp.step(scores.reshape(1, -1), sparsity, pruning_rate, tau, generator, whole)
    return ranked.reshape(scores.shape)


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return step(at.score(to_blocks(weight, at.n)), at.sparsity, at.rate, at.options.tau, at.generator, at.active)


METHOD = Method(
    name="nonuniform",
    help="1xN ranked over a whole layer",
    prunes="1xN blocks, by layer",
    masks="SUBP's step on one ranking of the whole layer",
    choose=_choose,
    options=subp.Regrowing,
    ranks_layer=True,
    criteria=("l1", "l2"),
    scorings=subp.METHOD.scorings,
)
