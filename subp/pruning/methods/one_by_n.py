"""1xN pruning of a pretrained network (Lin et al., TPAMI 2022, arXiv 2105.14713): one shot, then training under the
mask.

    score of block (g, i) = |w_{g,i}|_1;   the floor(p * G * I) lowest of the whole layer are pruned.

So groups keep different numbers of blocks. The uniform variant ranks within each group instead, as the CPU's threads
like it. The paper first rearranges the filters by their L1 norms, so that strong ones share blocks: that is
`subp.rearrange.by_l1_norm`, folded into the weights before the masks are put on.
"""

from torch import Tensor

from subp.pruning.methods.ranking import keep_best


def step(scores: Tensor, sparsity: float, uniform: bool) -> Tensor:
    """The mask, bool [G, I], from block scores [G, I], higher is better. Of a layer, or of a group, one block stays."""
    ranked = scores if uniform else scores.reshape(1, -1)
    return keep_best(ranked, sparsity).reshape(scores.shape)
