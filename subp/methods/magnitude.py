"""Unstructured magnitude pruning, gradual (Zhu & Gupta, arXiv 1710.01878): the smallest weights of a layer are zero.

At epoch t the floor(p_t * numel) weights of least magnitude are pruned, p_t climbing along the usual cubic. What no
pattern costs in accuracy; a CPU gains next to nothing from it.
"""

from torch import Tensor

from subp.methods.ranking import keep_best


def step(weight: Tensor, pruning_rate: float) -> Tensor:
    """The mask of one epoch, bool, of the weight's shape."""
    return keep_best(weight.float().abs().reshape(1, -1), pruning_rate).reshape(weight.shape)
