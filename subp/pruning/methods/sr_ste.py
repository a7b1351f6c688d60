"""N:M sparsity by SR-STE (Zhou et al., arXiv 2102.04010): of M consecutive inputs each output keeps the N largest.

The mask follows the weights at every forward pass in training. The forward pass uses w*m, the backward pass adds
2e-4 * (1-m) * w to the straight-through gradient (masking.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp_contract.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NOfM(Hyperparameters):
    """The M of N:M."""

    m: int = hyperparameter(
        4, "Of sr-ste's N:M, with N = (1 - sparsity) * M.", lambda m: m >= 1, "a group has at least 1 input"
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
    every_forward=True,
    one_shot=True,
)
