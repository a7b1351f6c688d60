"""How far masks moved between two moments: what each layer keeps, what it pruned newly and what it keeps newly.

before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
sparsifier.step(epoch)
churn.between(before, sparsifier.masks)["layer1.0.conv1"]  # Churn(kept=64, of=256, pruned=12, grown=12)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Churn(NamedTuple):
    """Of one mask, in blocks (or the method's other units): `kept` after, `of` all; `pruned` were kept before and are
    not after, `grown` the other way round. So kept before is kept + pruned - grown.
    """

    kept: int
    of: int
    pruned: int
    grown: int


Log = dict[str, list[list[int]]]  # layer name -> [epoch, *Churn] of epochs one after the other


def of_mask(before: Tensor, after: Tensor) -> Churn:
    """From one mask, bool of any shape, to another of that shape."""
    counts = after.sum(), (before & ~after).sum(), (after & ~before).sum()
    kept, pruned, grown = (int(count) for count in counts)
    return Churn(kept, after.numel(), pruned, grown)


def between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Churn]:
    """Layer name -> its churn, of all layers; empty where no layer's mask is another than before."""
    found = {name: of_mask(before[name], mask) for name, mask in after.items()}
    return found if any(each.pruned or each.grown for each in found.values()) else {}


def note(log: Log, epoch: int, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Adds an epoch's churn to the log; none where no mask moved."""
    for name, churn in between(before, after).items():
        log.setdefault(name, []).append([epoch, *churn])
