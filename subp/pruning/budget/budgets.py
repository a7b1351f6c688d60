"""From a budget of the whole network, of multiply-accumulates or of weights, to the sparsities of its pruned layers.

A layer that ranks C blocks together keeps C - floor(p C) of them, and at least one, so a network's cost falls in steps
as the layers' sparsities p_l grow:

    cost = sum of dense layers + sum over pruned layers of cost_l * (C_l - min(floor(p_l C_l), C_l - 1)) / C_l

Where each group is to keep a multiple of m blocks (int8 kernels multiply four channels at a time), m stay at least, and
the counts that meet the budget are rounded by largest remainders: all down to a multiple, then one multiple more where
most was cut off, as long as the cost stays within the budget.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from subp.pruning.schedules import pruned_count
from subp_contract.errors import UserError, require

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Share:
    """A pruned layer's part: its cost when dense, how many blocks are ranked together, and of how many groups those
    are, each of which is to keep a multiple of so many; 1: any number.
    """

    cost: int
    candidates: int
    groups: int = 1
    multiple: int = 1

    def pruned(self, sparsity: float) -> int:
        """How many of the candidates go, before they are rounded."""
        return min(pruned_count(sparsity, self.candidates), self.candidates - self.multiple)

    def rounded_down(self, kept: int) -> int:
        """The largest number up to `kept` of which each group can have a multiple. A layer that is whole stays so."""
        if kept == self.candidates:
            return kept
        most = self.candidates // self.groups // self.multiple * self.multiple * self.groups
        return min(kept // self.multiple * self.multiple, most)

    def can_keep(self, kept: int) -> bool:
        """Whether each group can have a multiple if so many are kept."""
        return kept <= self.candidates and self.rounded_down(kept) == kept

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
    Raises UserError where the dense layers, and the fewest blocks in each group of the others, cost more than that.
    """

    limit: float
    shares: Sequence[Share]
    dense: int
    unit: str

    def __post_init__(self) -> None:
        least, total = (self.cost([sparsity] * len(self.shares)) for sparsity in (1.0, 0.0))
        multiple = max((share.multiple for share in self.shares), default=1)
        blocks = "one block" if multiple == 1 else f"{multiple} blocks"
        require(
            self.limit >= least,
            f"{self.limit / 1e6:,.1f} million {self.unit} cannot be reached: what stays dense and {blocks} a group "
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

    def in_multiples(self, sparsities: Sequence[float]) -> list[float]:
        """Sparsities that meet the budget, changed by less than one multiple in each layer so that its groups can keep
        multiples; the budget is still met.
        """
        pairs = list(zip(self.shares, sparsities, strict=True))
        wanted = [share.candidates - share.pruned(sparsity) for share, sparsity in pairs]
        kept = [share.rounded_down(count) for share, count in zip(self.shares, wanted, strict=True)]
        per_unit = [share.cost / share.candidates for share in self.shares]
        spare = self.limit - self.dense - sum(map(operator.mul, per_unit, kept))

        def remainder(layer: int) -> float:
            return (wanted[layer] - kept[layer]) / self.shares[layer].multiple

        for layer in sorted(range(len(kept)), key=remainder, reverse=True):
            share, more = self.shares[layer], self.shares[layer].multiple
            if remainder(layer) > 0 and share.can_keep(kept[layer] + more) and per_unit[layer] * more <= spare:
                spare -= per_unit[layer] * more
                kept[layer] += more
        return [1 - count / share.candidates for share, count in zip(self.shares, kept, strict=True)]


def parse(text: str) -> float:
    """A budget as written: "0.25", a fraction of the dense network, or a number such as "1.03G" or "279M". Raises
    UserError for any other text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)", text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise UserError(f"{text!r} is no budget: write a fraction such as 0.25, or a number such as 1.03G or 279M")
    return value
