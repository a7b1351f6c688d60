"""Scoring: by what the units that are pruned now are ranked at the next step.

A scoring is a function (weight [O, I, *kernel], mask) -> (the weight to be scored, the mask of units that rank before
all others or None).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subp.pruning.block_masks import expand_mask

if TYPE_CHECKING:
    from torch import Tensor


def masked(weight: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    """Pruned units are zeros: they rank last, and tie."""
    return weight.where(expand_mask(mask, weight.shape), 0), None


def active(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pruned units have the weights that they train, but all that are kept rank before them."""
    return weight, mask


def trained(weight: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    """Pruned units compete by the weights that they train."""
    return weight, None


@dataclass(frozen=True)
class Scoring:
    """The function, and a few words for the command line."""

    of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    help: str


SCORINGS: dict[str, Scoring] = {
    "masked": Scoring(masked, "as zeros, so that they rank last and tie"),
    "active": Scoring(active, "by the weights that they train, but kept ones rank before them"),
    "weight": Scoring(trained, "by the weights that they train"),
}
