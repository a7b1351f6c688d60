"""Non-uniform 1xN: SUBP's step with one ranking over the whole layer instead of one in each group.

A layer keeps as many blocks as under SUBP, but a group as many as rank among them, none at all perhaps: what uniformity
costs is the difference in accuracy to SUBP with the same criterion. The criterion must compare across groups, as L1
does and bpar, whose shares add up to 1 in every group, does not.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from subp.pruning.methods.base import MethodStep
from subp.pruning.methods.every_epoch import subp
from subp.pruning.methods.ranking import in_multiples, ranks

if TYPE_CHECKING:
    from torch import Generator, Tensor


def step(
    scores: Tensor,
    sparsity: float,
    pruning_rate: float,
    tau: float,
    generator: Generator,
    active: Tensor | None = None,
    multiple: int = 1,
) -> Tensor:
    """The mask of one epoch, bool [G, I], from scores [G, I]; the arguments are those of `subp.step`, and a number of
    blocks of which each group keeps a multiple.
    """
    whole = None if active is None else active.reshape(1, -1)
    mask = subp.step(scores.reshape(1, -1), sparsity, pruning_rate, tau, generator, whole).reshape(scores.shape)
    return in_multiples(mask, scores if active is None else ranks(scores, active), multiple)


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return subp.choose(weight, at, partial(step, multiple=at.multiple))


METHOD = replace(
    subp.METHOD,
    name="nonuniform",
    help="1xN ranked over a whole layer",
    prunes="1xN blocks, by layer",
    masks="SUBP's step on one ranking of the whole layer",
    source="baseline",
    choose=_choose,
    ranks_layer=True,
    rounds_groups=True,
    criteria=("l1", "l2"),
)
