"""Random uniform 1xN: every group keeps the same number of blocks, drawn once. What a choice by weight must beat."""

import torch
from torch import Generator, Tensor

from subp.pruning.methods.ranking import keep_best


def step(groups: int, channels: int, sparsity: float, generator: Generator) -> Tensor:
    """A mask, bool [groups, channels]: each group keeps all but floor(sparsity * channels) blocks, and at least one."""
    return keep_best(torch.rand(groups, channels, generator=generator), sparsity)
