"""From a budget of the whole network, of multiply-accumulates or of weights, to the one sparsity of its pruned layers.

A layer that ranks C blocks together keeps C - floor(p C) of them, so a network's cost falls in steps as the sparsity p
grows:

    cost(p) = sum of dense layers + sum over pruned layers of cost_l * (C_l - floor(p C_l)) / C_l
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from subp.errors import UserError, require
from subp.schedules import count

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Share:
    """A pruned layer's part: its cost when dense, and how many blocks are ranked together."""

    cost: int
    candidates: int

    def kept(self, sparsity: float) -> float:
        """The cost of what is kept."""
        kept = self.candidates - min(count(sparsity, self.candidates), self.candidates - 1)
        return self.cost * kept / self.candidates


def sparsity_for(target: float, dense: int, shares: Sequence[Share], unit: str) -> float:
    """The least sparsity at which the network costs no more than `target`.

    target:  a cost, or, up to 1, a fraction of the whole dense network's
    dense:   cost of the layers that are not pruned
    unit:    of the costs, for messages
    Raises UserError where the dense layers, and one block in each group of the others, cost more than that.
    """
    total = dense + sum(share.cost for share in shares)
    limit = target * total if target <= 1 else target

    def cost(sparsity: float) -> float:
        return dense + sum(share.kept(sparsity) for share in shares)

    least = cost(1)
    require(
        limit >= least,
        f"{limit / 1e6:,.1f} million {unit} cannot be reached: what stays dense and one block a group are "
        f"{least / 1e6:,.1f} of {total / 1e6:,.1f} million",
    )
    low, high = 0.0, 1.0  # cost(high) <= limit
    if cost(low) <= limit:
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= limit else (middle, high)
    return min(count(high, share.candidates) / share.candidates for share in shares if _steps_between(share, low, high))


def _steps_between(share: Share, low: float, high: float) -> bool:
    return count(low, share.candidates) < count(high, share.candidates)


def parse(text: str) -> float:
    """A budget as written: "0.25", a fraction of the dense network, or a number such as "1.03G" or "279M"."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)", text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise UserError(f"{text!r} is no budget: write a fraction such as 0.25, or a number such as 1.03G or 279M")
    return value
