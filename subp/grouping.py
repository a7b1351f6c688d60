"""Balanced clustering: items into groups of exactly n, so that the items of a group have much in common."""

import torch
from torch import Tensor

_PASSES = 50  # over all pairs of items; in practice a few suffice


def balanced_groups(features: Tensor, n: int) -> Tensor:
    """An order [S] of the items, features [S, F]: each n consecutive ones of it are a group. n divides S.

    Maximises the sum over pairs in one group of the dot product of their features, of 0s and 1s: how often both have
    one. First greedily: a group begins with the first item not yet taken that has least in common with the rest, and
    takes, one at a time, the item that has most in common with the group. Then items swap groups while that gains,
    the best swaps first. Deterministic: among equals the first.
    """
    common = features.double() @ features.double().T
    common.fill_diagonal_(0)
    return _by_swaps(common, _greedy(common, n), n)


def overlap(features: Tensor, order: Tensor, n: int) -> float:
    """What `balanced_groups` maximises, for any order."""
    groups = features.double()[order].reshape(-1, n, features.shape[1])
    return float((groups.sum(1).square().sum() - groups.square().sum()) / 2)


def _greedy(common: Tensor, n: int) -> Tensor:
    free = torch.ones(len(common), dtype=torch.bool, device=common.device)
    order = []
    for _ in range(len(common) // n):
        shared = common @ free.double()
        member = int(torch.where(free, shared, torch.inf).argmin())
        affinity = torch.zeros_like(shared)
        for _ in range(n):
            order.append(member)
            free[member] = False
            affinity += common[member]
            member = int(torch.where(free, affinity, -1).argmax())
    return torch.tensor(order)


def _by_swaps(common: Tensor, order: Tensor, n: int) -> Tensor:
    """Swaps pairs of items of different groups while the sum grows; in a pass no group takes part in two swaps, so that
    each gains what it promised.
    """
    groups = len(common) // n
    for _ in range(_PASSES if groups > 1 else 0):
        ordered = common[order][:, order]
        to_group = ordered.reshape(-1, groups, n).sum(2)  # [S, groups]: what an item has in common with each group
        home = torch.arange(len(order)) // n
        leaving = to_group[:, home] - to_group.gather(1, home.unsqueeze(1))  # [i, j]: i's gain from j's group without j
        gains = leaving + leaving.T - 2 * ordered
        gains[home.unsqueeze(1) == home] = 0
        best, partners = gains.max(1)
        busy, swapped = torch.zeros(groups, dtype=torch.bool), False
        for i in best.argsort(descending=True, stable=True).tolist():
            j = int(partners[i])
            if best[i] <= 1e-9:
                break
            if not busy[home[i]] and not busy[home[j]]:
                busy[home[i]] = busy[home[j]] = swapped = True
                order[[i, j]] = order[[j, i]]
        if not swapped:
            break
    return order
