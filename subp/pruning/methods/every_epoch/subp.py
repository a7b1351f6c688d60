"""SUBP, soft uniform block pruning: one epoch's step, from block scores [G, I] to a uniform mask [G, I].

Per group of C = I blocks (Xiang et al., NeurIPS 2023, arXiv 2310.06218):

1. prune the P = floor(p C) blocks that score lowest;
2. regrow K_t = floor((p - p_t) C) of them, drawn without replacement with probability softmax(s / tau),
   s = the pruned blocks' scores at unit length.

Theirs besides: the scores by BPAR (criteria.py), the forward pass on w*m, and the gradient that goes straight
through, with SR-STE's term on pruned blocks (masking.py). This project's, where it leaves their public code:

- the scores of pruned blocks (`scoring`). Theirs are the scores of w*m ("masked", the default here too): pruned blocks
  score lowest and tie. No tie decides what stays, for at least as many blocks are active as stay; and at tau = 0.01 the
  draw takes the best of those that this very step prunes, so that masks only shrink. At tau = 1 it takes any. With the
  scores of the raw weights, which are all different, pruned blocks come back by being drawn ("active": step 1. takes
  those first that were not active) or by outranking others as well ("weight"). But no loss sees pruned weights: under
  soft training they grow, and push trained ones out. Short trainings lose by it (docs/results_older.md);
- tau is 0.01 by default; at their 1, on scores of unit length, the draw is nearly uniform;
- p_t climbs by the usual cubic by default, not by their x^3 (schedules.py);
- of each group one block stays at least.

`subp-gradient` is this project's variant, in which regrowing looks beyond what the step itself prunes. Of step 2.'s
draw s is the norm of each pruned block's mean gradient since the step before, at unit length: what the loss asks for,
as RigL does (arXiv 1911.11134), whether a block was pruned now or long ago. Pruned blocks get no gradient themselves
(hard), so that one that comes back has the weights with which it was last in use, but for weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from subp.pruning.block_masks import to_blocks
from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best, lowest, ranks
from subp.pruning.schedules import count

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Regrowing(Hyperparameters):
    """How pruned blocks are drawn back."""

    tau: float = hyperparameter(
        0.01,
        "Temperature of regrowing: towards 0 the best of the pruned blocks, large values any.",
        lambda tau: tau > 0,
        "a temperature is above 0",
    )


def step(
    scores: Tensor,
    sparsity: float,
    pruning_rate: float,
    tau: float,
    generator: Generator,
    active: Tensor | None = None,
    regrow_by: Tensor | None = None,
) -> Tensor:
    """The mask of one epoch, bool [G, I]: every group keeps exactly I - P + K_t blocks, its I - P best ones among them.

    scores:        [G, I], higher is better; compared within a group
    sparsity:      p, the fraction pruned at the end, in [0, 1)
    pruning_rate:  p_t, the fraction pruned for good by now, in [0, p]
    tau:           temperature: near 0 regrows the best of the pruned blocks, large values draw uniformly
    generator:     on the CPU whatever the device of the scores, so that every machine draws alike
    active:        bool [G, I], the mask of the epoch before; None: all blocks compete
    regrow_by:     [G, I], what pruned blocks are drawn by; None: by their scores
    """
    from torch.nn.functional import normalize

    order = scores if active is None else ranks(scores, active)
    pruned, mask = lowest(order, sparsity), keep_best(order, sparsity)
    regrown = min(count(sparsity - pruning_rate, scores.shape[1]), pruned.shape[1])
    if regrown:
        wanted = scores if regrow_by is None else regrow_by
        drawn = draw(normalize(wanted.gather(1, pruned), dim=1) / tau, regrown, generator)
        mask.scatter_(1, pruned.gather(1, drawn), True)
    return mask


def draw(logits: Tensor, samples: int, generator: Generator) -> Tensor:
    """Indices [G, samples] of a draw without replacement with probability softmax(logits [G, C]).

    The largest of logits + Gumbel noise are such a draw (Kool et al., arXiv 1903.06059). Unlike `multinomial` this
    never runs out of candidates when a low temperature rounds their probabilities to 0.
    """
    import torch

    exponential = torch.empty(logits.shape).exponential_(generator=generator)
    return (logits - exponential.log().to(logits.device)).topk(samples, dim=1).indices


def choose(weight: Tensor, at: MethodStep, step: Callable[..., Tensor] = step) -> Tensor:
    """The mask by the step above, or by one that takes the same arguments."""
    return step(at.score(to_blocks(weight, at.n)), at.sparsity, at.rate, at.options.tau, at.generator, at.active)


def _choose_by_gradient(weight: Tensor, at: MethodStep) -> Tensor:
    assert at.gradient is not None  # `needs_gradients`
    return choose(weight, at, partial(step, regrow_by=to_blocks(at.gradient, at.n).float().norm(dim=-1)))


METHOD = Method(
    name="subp",
    help="uniform 1xN, pruned and regrown while training",
    prunes="1xN blocks, each group equally many",
    masks="the floor(p C) lowest of a group pruned, floor((p - p_t) C) of them drawn back with probability "
    "softmax(s / tau)",
    source="SUBP, arXiv 2310.06218",
    choose=choose,
    options=Regrowing,
    criteria=("bpar", "l1", "l2"),
    scorings=("masked", "active", "weight"),
)

BY_GRADIENT = replace(
    METHOD,
    name="subp-gradient",
    help="the same, regrown by gradient",
    masks="the same, drawn back by the norms of their mean gradients",
    source="SUBP, regrown after RigL, arXiv 1911.11134",
    choose=_choose_by_gradient,
    needs_gradients=True,
    soft=False,
    scorings=("masked", "active"),
)
