"""Balanced clustering: items into groups of exactly n, so that the items of a group have much in common."""

import torch
from torch import Tensor

_PASSES = 50  # over all pairs of items, at most: groups that are there take a few, 2048 random items all of them


def balanced_groups(features: Tensor, n: int) -> Tensor:
    """An order [S] of the items, features [S, F]: each n consecutive ones of it are a group. n divides S.

    Maximises the sum over pairs in one group of the dot product of their features, of 0s and 1s: how often both have
    one. First greedily: a group begins with the first item not yet taken that has least in common with the rest, and
    takes, one at a time, the item that has most in common with the group. Then items swap groups while that gains,
    the best swaps first. Deterministic: among equals the first.
    """
    features = features.float()  # sums of 0s and 1s: exact
    common = features @ features.T
    common.fill_diagonal_(0)
    return _by_swaps(common, _greedy(common, n), n)


def _greedy(common: Tensor, n: int) -> Tensor:
    shared = common.sum(1, dtype=torch.float64)  # with all that are free; infinite for what is taken
    order = []
    for _ in range(len(common) // n):
        member = int(shared.argmin())
        affinity = torch.where(shared.isinf(), -torch.inf, 0.0)
        for _ in range(n):
            order.append(member)
            affinity += common[member]
            affinity[member] = -torch.inf
            member = int(affinity.argmax())
        shared -= common[order[-n:]].sum(0)
        shared[order[-n:]] = torch.inf
    return torch.tensor(order)


def _by_swaps(common: Tensor, order: Tensor, n: int) -> Tensor:
    """Swaps pairs of items of different groups while the sum grows; in a pass no group takes part in two swaps, so that
    each gains what it promised. From pass to pass only what concerns groups that changed is computed anew.
    """
    size, groups = len(common), len(common) // n
    places = torch.arange(size)
    home = places // n
    common = common[order].index_select(1, order)
    with_group = common.reshape(groups, n, size).sum(1)  # [groups, S]: what each item has in common with a group
    peak = torch.empty(groups, n, groups)  # the most that an item can gain by a swap with one of a group
    changed = torch.arange(groups)
    for _ in range(_PASSES if groups > 1 else 0):
        moving = with_group - with_group[home, places]  # [groups, S]: an item's gain in a group that nobody leaves
        gains = common.reshape(groups, -1).index_select(0, changed).reshape(-1, n, groups, n).mul_(-2)
        gains += moving.T.reshape(groups, n, groups, 1)[changed]
        gains += moving.reshape(groups, 1, groups, n)[changed]
        gains[torch.arange(len(changed)), :, changed] = 0
        peak[changed] = gains.amax(3)
        peak[:, :, changed] = gains.amax(1).permute(1, 2, 0)
        best, group = peak.reshape(size, groups).max(1)
        first, group = _apart(best, group, n)
        if not len(first):
            break
        others = group.unsqueeze(1) * n + torch.arange(n)  # of which one swaps: that with the most to gain
        second = n * group + (moving[home[first].unsqueeze(1), others] - 2 * common[first.unsqueeze(1), others]).argmax(
            1
        )
        there, back = torch.cat([first, second]), torch.cat([second, first])
        with_group.index_add_(0, home[there], common[back] - common[there])
        with_group[:, there] = with_group[:, back]
        common[there] = common[back]
        common.index_copy_(1, there, common.index_select(1, back))
        order[there] = order[back]
        changed = home[there]
    return order


def _apart(best: Tensor, group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(items, groups): swaps of an item with one of its best group that gain, the best first, no group being in two."""
    gain, other = best.tolist(), group.tolist()
    busy: set[int] = set()
    swaps: list[tuple[int, int]] = []
    for item in best.argsort(descending=True, stable=True).tolist():
        if gain[item] <= 0:
            break
        pair = {item // n, other[item]}
        if not busy & pair:
            busy |= pair
            swaps.append((item, other[item]))
    return tuple(torch.tensor(swaps, dtype=torch.long).reshape(-1, 2).T)
