"""Filter pruning: whole output filters of least norm are zero. A layer of `O` outputs prunes floor(p_t * O) of them at
epoch t.

After Li et al. (arXiv 1608.08710: L1 norms, pruned for good) with criterion "l1" and hard training, and by default
after soft filter pruning (He et al., arXiv 1808.06866: L2 norms, pruned filters go on learning and may come back). This
project's reading of the latter: they zero the weights themselves after each epoch, and the network then computes with
what these filters learn; here the weights stay, masked, and learn by gradients that go straight through (subp.masking).
Both papers prune at the full rate at once; here p_t climbs, unless `end` is `start`.

Only the weight is masked: a batch norm behind it still adds its bias to a pruned channel, a constant that the next
layer's bias could take up.
"""

from torch import Tensor

from subp.pruning.methods.ranking import keep_best


def step(scores: Tensor, pruning_rate: float) -> Tensor:
    """The mask of one epoch, bool [O, 1], from one score a filter [O]."""
    return keep_best(scores.reshape(1, -1), pruning_rate).T
