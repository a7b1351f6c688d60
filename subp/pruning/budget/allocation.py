"""How pruning is shared out among layers: from one level, common to all, to a sparsity for each.

An allocation is a function of a level in [0, 1]. It gives the layers' sparsities, all 0 at level 0 and all 1 at level
1, none of which falls where the level rises, so that `budgets.Budget` can search for the level that meets a budget.

    equal     every layer the level itself
    erk       wide layers more than narrow ones, by their shapes alone
    global    layers compete by their weights: the lowest scores of all layers go first, wherever they are
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ALLOCATIONS = {  # name -> a few words for the command line
    "equal": "all the same sparsity",
    "erk": "by their shapes, wide layers more",
    "global": "by their weights at the beginning, for a network that --weights brings",
}

Allocation = Callable[[float], list[float]]


def equal(layers: int) -> Allocation:
    """One sparsity for so many layers."""
    return lambda level: [level] * layers


def erk(shapes: Sequence[Sequence[int]]) -> Allocation:
    """Erdős-Rényi kernel, for weights of `shapes` [O, I, *kernel] (Evci et al., RigL, arXiv 1911.11134; for [O, I]
    Mocanu et al., arXiv 1707.04780): with one factor e for all layers, which falls as the level rises, a layer's
    density is

        min(1, e (O + I + kh + kw) / (O I kh kw))

    A layer that reaches 1 stays whole, and the others make up for it, as the e that meets a budget is then a smaller
    one.
    """
    ratios = [sum(shape) / math.prod(shape) for shape in shapes]
    widest = min(ratios)
    return lambda level: [max(0.0, 1 - (1 - level) * ratio / widest) for ratio in ratios]


def ranked_together(scores: Sequence[Tensor]) -> Allocation:
    """One threshold for all layers, from scores [units] of each, ascending: at a level the floor(level * all) lowest of
    all units are to go, and a layer's sparsity is the share of its own among them. Units that tie with the last go too.
    """
    import torch

    everywhere = torch.cat(list(scores)).sort().values

    def sparsities(level: float) -> list[float]:
        pruned = int(level * len(everywhere))
        if pruned == 0:
            return [0.0] * len(scores)
        threshold = everywhere[pruned - 1]
        return [int(torch.searchsorted(of_layer, threshold, right=True)) / len(of_layer) for of_layer in scores]

    return sparsities


def lamp(energies: Tensor) -> Tensor:
    """Layer-adaptive scores (LAMP, Lee et al., arXiv 2010.07611) of a layer's units, ascending, float64 [units], from
    the units' squared L2 norms, of any shape:

        score(u) = |w_u|^2 / sum of |w_v|^2 over all v that are not smaller than u

    that is which part of the norm that is left goes with u if the layer is pruned up to it. The paper has single
    weights for units. Squared norms add up, so the same holds for blocks, and the scores of layers whose blocks or
    weights are of other sizes compare: a plain mean |w| would prune layers by their fan-in, by which initialisations
    scale weights. The largest unit of a layer scores 1, so no layer goes as a whole; in one of zeros all score 0.
    """
    import torch

    ordered = energies.flatten().double().sort().values
    left = ordered.flip(0).cumsum(0).flip(0)
    return ordered / left.clamp_min(torch.finfo(left.dtype).tiny)
