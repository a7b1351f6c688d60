"""Filter pruning: whole output filters of least norm are zero (L1: Li et al., arXiv 1608.08710; L2, with gradients that
still reach the pruned ones, so that these may come back: He et al., arXiv 1808.06866).

A layer of `O` outputs prunes floor(p_t * O) of them at epoch t. Only the weight is masked: a batch norm behind it still
adds its bias to a pruned channel, a constant that the next layer's bias could take up.
"""

from torch import Tensor

from subp.methods.ranking import keep_best


def step(scores: Tensor, pruning_rate: float) -> Tensor:
    """The mask of one epoch, bool [O, 1], from one score a filter [O]."""
    return keep_best(scores.reshape(1, -1), pruning_rate).T
