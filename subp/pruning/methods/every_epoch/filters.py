"""Filter pruning: whole output filters of least norm are zero. A layer of `O` outputs prunes floor(p_t * O) of them at
epoch t.

After Li et al. (arXiv 1608.08710: L1 norms, pruned for good) with criterion "l1" and hard training, and by default
after soft filter pruning (He et al., arXiv 1808.06866: L2 norms, pruned filters go on learning and may come back). This
project's reading of the latter: they zero the weights themselves after each epoch, and the network then computes with
what these filters learn; here the weights stay, masked, and learn by gradients that go straight through (masking.py).
Both papers prune at the full rate at once; here p_t climbs, unless `end` is `start`.

Only the weight is masked: a batch norm behind it still adds its bias to a pruned channel, a constant that the next
layer's bias could take up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor


def step(scores: Tensor, pruning_rate: float) -> Tensor:
    """The mask of one epoch, bool [O, 1], from one score a filter [O]."""
    return keep_best(scores.reshape(1, -1), pruning_rate).T


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return step(at.score(weight.flatten(1).unsqueeze(0)), at.rate)  # the filters as the blocks of one group


METHOD = Method(
    name="filter",
    help="whole output filters",
    prunes="whole output filters",
    masks="the floor(p_t O) of least norm",
    source="after arXiv 1808.06866; L1, hard: after arXiv 1608.08710",
    choose=_choose,
    unit="filter",
    uses_n=False,
    ranks_layer=True,
    criteria=("l2", "l1", "bpar"),
)
