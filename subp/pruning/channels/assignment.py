"""Orders of filters that give every group of N those of which a uniform mask keeps most: rearrangement beyond sorting.

Of a layer let a[o, i] be the L1 norm of the kernel from input i to output o. A group g of N outputs that keeps K blocks
keeps the K inputs S_g with the largest sums of a over its outputs, so an order of the outputs keeps

    sum over groups g, inputs i in S_g and outputs o in g of a[o, i].

Alternately the groups' S_g are chosen for the outputs that they have, and outputs are dealt out anew for these S_g: N
to a group so that the sum is largest, an assignment problem (`scipy.optimize.linear_sum_assignment`). Neither step
makes the sum smaller, but it ends at the first order that neither improves. So it begins twice: with the filters sorted
by norm (arXiv 2105.14713), and with those together whose K largest inputs are the same (grouping.py). The better end
counts: it keeps at least what sorting does.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from subp.pruning.channels import rearrange
from subp.pruning.channels.grouping import balanced_groups
from subp.pruning.channels.rearrange import Channels
from subp.pruning.schedules import pruned_count

_TURNS = 20  # at most: sums settle within a few


def by_kept_norm(channels: Channels, model: nn.Module, weights: Mapping[str, tuple[int, float]]) -> list[Tensor]:
    """An order for each set, for `rearrange.rearrange`.

    weights: names of those that are to be pruned -> (outputs in a group, fraction of each group's blocks pruned).
             Layers that make the same channels are dealt out together, each one's norms in units of their mean
    A set that does not fill whole groups of one size is sorted.
    """
    tensors = rearrange.tensors_of(model)
    orders = rearrange.by_l1_norm(channels, model, weights)
    for number, each in enumerate(channels.sets):
        layers = {name: weights[name] for name in each.rows if name in weights}
        n = max((n for n, _ in layers.values()), default=0)
        fits = all(
            of_layer == n and rearrange.whole_blocks(each.rows[name], n) for name, (of_layer, _) in layers.items()
        )
        if not layers or not fits:
            continue
        norms = [_norms(tensors[name], each.rows[name]) for name in layers]
        widths = [of_layer.shape[1] for of_layer in norms]
        kept = [width - pruned_count(p, width) for width, (_, p) in zip(widths, layers.values(), strict=True)]
        orders[number] = assigned(norms, kept, n, orders[number])
    return orders


def _norms(weight: Tensor, rows: Tensor) -> Tensor:
    """[S, I], double: of each channel's filter, by input, in units of their mean."""
    norms = weight.detach().flatten(2).double().abs().sum(2).cpu()[rows[:, 0]]
    return norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny)


def assigned(norms: Sequence[Tensor], kept: Sequence[int], n: int, order: Tensor) -> Tensor:
    """An order [S] of the outputs, each n of it a group, that keeps at least as much as the given one.

    norms: of each layer, [S, I of the layer];   kept: blocks in a group of the layer
    """
    alike = torch.cat([_keeps(of_layer, many, 1) for of_layer, many in zip(norms, kept, strict=True)], dim=1)
    ends = [_alternated(norms, kept, n, start) for start in (order, balanced_groups(alike, n))]
    return max(ends, key=lambda end: kept_norm(norms, kept, n, end))


def _alternated(norms: Sequence[Tensor], kept: Sequence[int], n: int, order: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    best, most = order, kept_norm(norms, kept, n, order)
    for _ in range(_TURNS):
        gains = sum(
            of_layer @ _keeps(of_layer[best], many, n).to(of_layer.dtype).T
            for of_layer, many in zip(norms, kept, strict=True)
        )
        assert isinstance(gains, Tensor)  # [S, groups]: what each output adds to a group
        outputs, places = linear_sum_assignment(gains.repeat_interleave(n, dim=1).numpy(), maximize=True)
        dealt = torch.from_numpy(outputs)[torch.from_numpy(places).argsort(stable=True)]
        now = kept_norm(norms, kept, n, dealt)
        if now <= most * (1 + 1e-9):
            break
        best, most = dealt, now
    return best


def kept_norm(norms: Sequence[Tensor], kept: Sequence[int], n: int, order: Tensor) -> float:
    """The sum of the module's docstring, over all layers."""
    sums = [of_layer[order].reshape(-1, n, of_layer.shape[1]).sum(1) for of_layer in norms]
    return sum(float(of_layer.topk(many, dim=1).values.sum()) for of_layer, many in zip(sums, kept, strict=True))


def _keeps(norms: Tensor, kept: int, n: int) -> Tensor:
    """Bool [S / n, I]: the inputs that each n consecutive outputs keep, from norms [S, I]."""
    sums = norms.reshape(-1, n, norms.shape[1]).sum(1)
    return torch.zeros_like(sums).bool().scatter_(1, sums.topk(kept, dim=1).indices, True)


ORDERS = {"norm": rearrange.by_l1_norm, "assignment": by_kept_norm}  # by the names of settings.ARRANGEMENTS
