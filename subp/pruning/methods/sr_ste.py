"""N:M sparsity by SR-STE (Zhou et al., arXiv 2102.04010): of M consecutive inputs each output keeps the N largest.

The mask follows the weights at every forward pass in training. The forward pass uses w*m, the backward pass adds
2e-4 * (1-m) * w to the straight-through gradient (subp.masking).
"""

import torch
from torch import Tensor


def step(weight: Tensor, kept: int, m: int) -> Tensor:
    """Bool mask [O, I, *kernel]: of every m consecutive input channels, at one output and kernel position, the `kept`
    largest magnitudes. m divides I.
    """
    groups = weight.movedim(1, -1).unflatten(-1, (-1, m))  # [O, *kernel, I/m, m]
    best = groups.abs().topk(kept, dim=-1).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


def kept_of(m: int, sparsity: float) -> int | None:
    """N of N:M at this sparsity; None where (1 - sparsity) * m is not a whole number from 1 to m."""
    kept = round((1 - sparsity) * m)
    return kept if 1 <= kept <= m and abs((1 - sparsity) * m - kept) < 1e-6 else None
