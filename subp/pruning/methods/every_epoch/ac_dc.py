"""AC/DC by uniform blocks (Peste et al., arXiv 2106.12379): compressed and decompressed phases in turn.

The network is dense until epoch `start`. Then phases of a few epochs alternate, the first one compressed: at its
beginning each group keeps its C - floor(p C) blocks of largest norm, and pruned ones are zero and get no gradient; a
dense phase lets all train. From epoch `end` on it is compressed for good, by the norms as they then are.

What is read into it: blocks compete within their group, where the paper ranks single weights of the whole network.
What a dense phase takes back begins at zero, as theirs does (`Method.returns_zero`). A phase has `phase` epochs, 5 of
the paper's 100 by default, but here `start` and `end` default to those of the other methods, not to the paper's 10 and
85 of 100 epochs; the last phase before `end` is cut short, or goes on for good if it is compressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Phases(Hyperparameters):
    """How long they are."""

    phase: int = hyperparameter(
        5, "Epochs of each dense and each compressed phase of ac-dc.", lambda phase: phase >= 1, "it has at least 1"
    )


def is_compressed(epoch: int, start: int, end: int, phase: int) -> bool:
    """Whether the epoch is of a compressed phase."""
    return epoch >= end or (epoch >= start and (epoch - start) // phase % 2 == 0)


def step(scores: Tensor, sparsity: float, compressed: bool) -> Tensor:
    """The mask that a phase begins with, bool [G, I], from block scores [G, I]: the best of each group, or all."""
    return keep_best(scores, sparsity if compressed else 0.0)


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    assert at.active is not None  # its scoring
    compressed = is_compressed(at.epoch, *at.span, at.options.phase)
    if compressed and not bool(at.active.all()):
        return at.active  # within a phase, and into the last one from another compressed one, the mask stays
    return step(at.score(to_blocks(weight, at.n)), at.sparsity, compressed)


METHOD = Method(
    name="ac-dc",
    help="uniform 1xN, dense and sparse phases in turn",
    prunes="1xN blocks, each group equally many, in every second phase",
    masks="the floor(p I) of least norm of each group when a compressed phase began; none in a dense phase",
    source="after AC/DC, arXiv 2106.12379",
    choose=_choose,
    options=Phases,
    criteria=("l2", "l1"),
    scorings=("active",),
    soft=False,
    returns_zero=True,
)
