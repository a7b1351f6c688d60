"""Block scores: blocks [G, I, elements] -> scores [G, I], float32; the lowest of each group are pruned first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from subp.pruning.hyperparameters import Hyperparameters, hyperparameter

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS_AT_ONCE = 1 << 22  # cosines held at a time: 16 MiB


def l1(blocks: Tensor) -> Tensor:
    """Sum of magnitudes."""
    return blocks.float().abs().sum(-1)


def l2(blocks: Tensor) -> Tensor:
    """Euclidean length."""
    return blocks.float().norm(dim=-1)


@dataclass(frozen=True)
class Redundancy(Hyperparameters):
    """How bpar weighs it."""

    alpha: float = hyperparameter(1.0, "Weight of the redundancy in bpar.", math.isfinite, "it is a finite number")


def bpar(blocks: Tensor, alpha: float = Redundancy.alpha) -> Tensor:
    """Block pruning by angular redundancy (arXiv 2310.06218): a block's share of its group's L1 norm, less alpha times
    its share of the group's angular redundancy,

        S_i = |w_i|_1 / sum_j |w_j|_1  -  alpha * r_i / sum_j r_j,      r_i = sum_j |cos(w_i, w_j)|, itself included.

    A block along which many others of its group point says little of its own. A zero block points nowhere and has the
    whole share, 1. A few groups, or of a wide layer's one group a few rows, are taken at a time, so that of the cosines
    [G, I, I] at most _PAIRS_AT_ONCE (or one row) stand in memory at once.
    """
    magnitude = l1(blocks)
    redundancy = _redundancy(blocks.float())
    share = (redundancy / _total(redundancy)).where(redundancy > 0, 1.0)
    return magnitude / _total(magnitude) - alpha * share


def _redundancy(blocks: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    groups, channels, _ = blocks.shape
    groups_at_once = max(1, _PAIRS_AT_ONCE // channels**2)
    rows_at_once = max(1, _PAIRS_AT_ONCE // (groups_at_once * channels))
    directions = normalize(blocks, dim=-1)
    # Made first: results kept one by one would lie between the freed cosines, whose memory then is not used again.
    redundancy = directions.new_empty(groups, channels)
    for some, sums in zip(directions.split(groups_at_once), redundancy.split(groups_at_once), strict=True):
        for row in range(0, channels, rows_at_once):
            rows = slice(row, row + rows_at_once)
            sums[:, rows] = (some[:, rows] @ some.transpose(1, 2)).abs_().sum(-1)
    return redundancy


def _total(values: Tensor) -> Tensor:
    """Sum over a group, [G, 1]; never 0, so that shares of a group of zeros are 0 instead of NaN."""
    import torch

    return values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


@dataclass(frozen=True)
class Criterion:
    """The function, blocks and its hyperparameters by name -> scores; a few words for the command line."""

    score: Callable[..., Tensor]
    help: str
    options: type[Hyperparameters] = Hyperparameters


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1, "its L1 norm"),
    "l2": Criterion(l2, "its L2 norm"),
    "bpar": Criterion(bpar, "its share of the L1 norm less its angular redundancy", Redundancy),
}


def score(blocks: Tensor, criterion: str, options: Hyperparameters | None = None) -> Tensor:
    """The scores by the criterion of that name; options: its hyperparameters, None for their defaults."""
    chosen = CRITERIA[criterion]
    return chosen.score(blocks, **asdict(options or chosen.options()))
