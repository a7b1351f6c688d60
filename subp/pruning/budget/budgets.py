"""From a budget of the whole network, of multiply-accumulates or of weights, to the sparsities of its pruned layers.

A layer that ranks C blocks together keeps C - floor(p C) of them, and at least one, so a network's cost falls in steps
as the layers' sparsities p_l grow:

    cost = sum of dense layers + sum over pruned layers of cost_l * (C_l - min(floor(p_l C_l), C_l - 1)) / C_l
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from subp.pruning.schedules import pruned_count
from subp_contract.errors import UserError, require

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Share:
    """A pruned layer's part: its cost when dense, and how many blocks are ranked together."""

    cost: int
    candidates: int

    def pruned(self, sparsity: float) -> int:
        """How many of the candidates go."""
        return pruned_count(sparsity, self.candidates)

    def kept(self, sparsity: float) -> float:
        """The cost of what is kept."""
        return self.cost * (self.candidates - self.pruned(sparsity)) / self.candidates


@dataclass(frozen=True)
class Budget:
    """What a network may cost.

    limit:   the most
    shares:  of the pruned layers
    dense:   cost of the layers that are not pruned
    unit:    of the costs, for messages
    Raises UserError where the dense layers, and one block in each group of the others, cost more than that.
    """

    limit: float
    shares: Sequence[Share]
    dense: int
    unit: str

    def __post_init__(self) -> None:
        least, total = (self.cost([sparsity] * len(self.shares)) for sparsity in (1.0, 0.0))
        require(
            self.limit >= least,
            f"{self.limit / 1e6:,.1f} million {self.unit} cannot be reached: what stays dense and one block a group "
            f"are {least / 1e6:,.1f} of {total / 1e6:,.1f} million",
        )

    def cost(self, sparsities: Sequence[float]) -> float:
        """Of the network with these sparsities of its pruned layers."""
        return self.dense + sum(share.kept(sparsity) for share, sparsity in zip(self.shares, sparsities, strict=True))

    def sparsities(self, allocation: Callable[[float], Sequence[float]]) -> list[float]:
        """The sparsities, in whole blocks, at the least level of an allocation that meets the budget."""
        low, high = 0.0, 1.0  # cost at high <= limit
        if self.cost(allocation(low)) <= self.limit:
            return [0.0] * len(self.shares)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.cost(allocation(middle)) <= self.limit else (middle, high)
        return [
            share.pruned(sparsity) / share.candidates
            for share, sparsity in zip(self.shares, allocation(high), strict=True)
        ]


def parse(text: str) -> float:
    """A budget as written: "0.25", a fraction of the dense network, or a number such as "1.03G" or "279M"."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)", text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise UserError(f"{text!r} is no budget: write a fraction such as 0.25, or a number such as 1.03G or 279M")
    return value
