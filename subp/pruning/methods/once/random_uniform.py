"""Random uniform 1xN: every group keeps the same number of blocks, drawn once. What a choice by weight must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best

if TYPE_CHECKING:
    from torch import Generator, Tensor


def step(groups: int, channels: int, sparsity: float, generator: Generator) -> Tensor:
    """A mask, bool [groups, channels]: each group keeps all but floor(sparsity * channels) blocks, and at least one."""
    import torch

    return keep_best(torch.rand(groups, channels, generator=generator), sparsity)


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return step(weight.shape[0] // at.n, weight.shape[1], at.rate, at.generator)


METHOD = Method(
    name="random",
    help="uniform 1xN by lot",
    prunes="1xN blocks, each group equally many",
    masks="once, by lot",
    choose=_choose,
    settles=True,
    one_shot=True,
    soft=False,
)
