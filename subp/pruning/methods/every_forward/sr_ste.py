"""N:M sparsity by SR-STE (Zhou et al., arXiv 2102.04010): of M consecutive inputs each output keeps the N largest. And
the same training with uniform 1xN blocks.

The mask follows the weights at every forward pass in training. The forward pass uses w*m, the backward pass adds
2e-4 * (1-m) * w to the straight-through gradient (masking.py).

The paper knows N:M alone. By blocks this is the project's reading: a group keeps its C - floor(p C) blocks of largest
norm, so a whole row is its "M". It is sparse from the first step, as theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best
from subp_contract.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NOfM(Hyperparameters):
    """The M of N:M."""

    m: int = hyperparameter(
        4,
        "Weights in a group of sr-ste's N:M, of which it keeps N = (1 - sparsity) * M.",
        lambda m: m >= 1,
        "a group has at least 1 input",
    )


def step(weight: Tensor, kept: int, m: int) -> Tensor:
    """Bool mask [O, I, *kernel]: of every m consecutive input channels, at one output and kernel position, the `kept`
    largest magnitudes. m divides I.
    """
    groups = weight.movedim(1, -1).unflatten(-1, (-1, m))  # [O, *kernel, I/m, m]
    best = groups.abs().topk(kept, dim=-1).indices
    mask = groups.new_zeros(groups.shape).bool().scatter_(-1, best, True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


def kept_of(m: int, sparsity: float) -> int | None:
    """N of N:M at this sparsity; None where (1 - sparsity) * m is not a whole number from 1 to m."""
    kept = round((1 - sparsity) * m)
    return kept if 1 <= kept <= m and abs((1 - sparsity) * m - kept) < 1e-6 else None


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    kept = kept_of(at.options.m, at.sparsity)
    assert kept is not None  # see `_check`
    return step(weight, kept, at.options.m)


def _check(sparsity: float | None, allocation: str, options: NOfM) -> None:
    require(
        allocation == "equal",
        f"sr-ste keeps N of M weights in every layer: it has no allocation but equal, not {allocation}",
    )
    require(
        sparsity is None or kept_of(options.m, sparsity) is not None,
        f"sparsity = {sparsity} leaves no whole number of {options.m} weights: "
        f"choose it and m so that (1 - sparsity) * m is whole, such as 0.5 and 4 for 2:4",
    )


def _choose_blocks(weight: Tensor, at: MethodStep) -> Tensor:
    return keep_best(at.score(to_blocks(weight, at.n)), at.sparsity)


def _check_blocks(sparsity: float | None, allocation: str, options: Hyperparameters) -> None:
    require(
        allocation != "global",
        "sr-ste-block asks for its mask at every forward pass, and global sparsities are known later: "
        "choose the allocation equal or erk",
    )


METHOD = Method(
    name="sr-ste",
    help="N:M",
    prunes="N of M consecutive inputs stay",
    masks="the M - N smallest, at every forward pass",
    source="SR-STE, arXiv 2102.04010",
    choose=_choose,
    options=NOfM,
    unit="weight",
    uses_n=False,
    inputs_of=lambda options: options.m,
    check=_check,
    follow=_choose,
    one_shot=True,
)

BLOCKS = replace(
    METHOD,
    name="sr-ste-block",
    help="uniform 1xN that follows the weights",
    prunes="1xN blocks, each group equally many",
    masks="the floor(p I) of least norm of each group, at every forward pass",
    source="after the same",
    choose=_choose_blocks,
    follow=_choose_blocks,
    options=Hyperparameters,
    unit="block",
    uses_n=True,
    inputs_of=None,
    check=_check_blocks,
    criteria=("l2", "l1"),
)
