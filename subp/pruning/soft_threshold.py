"""The soft threshold by blocks, of st-3 (methods/every_forward/st_3.py): what pruned blocks have in norm is taken from
the kept ones of their group, so that a block that crosses over does so at zero; then the group is scaled up.

For each group of a block mask m, with a_i the L2 norms of its blocks:

    t = the largest a_i of those pruned, 0 where none is;   s = sum_i a_i / sum_i m_i a_i
    w_i -> s m_i max(0, 1 - t / a_i) w_i

Vanderschueren & De Vleeschouwer, arXiv 2212.01076, by single weights: w -> s sign(w) max(0, |w| - t), s of an output
filter: the mean magnitude of its weights by that of its kept ones (their code adds 0.01 to its inverse, and scales by
1.01). For a block of one weight the formulas are the same but for that.
"""

import torch
from torch import Tensor

from subp.pruning.block_masks import expand_mask, to_blocks


def shrunk(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight [O, I, *kernel] that the network computes with, from the one that is trained and a block mask
    [G, I], bool.
    """
    norms = to_blocks(weight, weight.shape[0] // mask.shape[0]).norm(dim=-1)  # [G, I]
    kept = norms.where(mask, 0)
    threshold = norms.where(~mask, 0).amax(1, keepdim=True)
    tiny = torch.finfo(norms.dtype).tiny
    scale = norms.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(tiny)
    factors = scale * (1 - threshold / norms.clamp_min(tiny)).clamp_min(0)
    return weight * expand_mask(factors.where(mask, 0), weight.shape)
