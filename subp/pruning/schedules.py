"""The pruning-rate schedule: what fraction p_t of a group's blocks is pruned for good at epoch t.

    p_t = sparsity * f(x),   x = (t - start) / (end - start), held to 0 before `start` and to 1 from `end` on

with f rising from f(0) = 0 to f(1) = 1. The lower p_t still is under the sparsity, the more pruned blocks regrow
(methods/every_epoch/subp.py).
"""

import math
from collections.abc import Callable

EXPONENT = 8.5  # of `exponential`: the authors' 0.05 an epoch over their 170 epochs of schedule


def linear(x: float) -> float:
    """f = x."""
    return x


def cosine(x: float) -> float:
    """f = 1 - cos(pi x / 2): slow at first, steepest at the end (as the authors' public code has it)."""
    return 1 - math.cos(math.pi / 2 * x)


def exponential(x: float) -> float:
    """f = (1 - exp(-8.5 x)) / (1 - exp(-8.5)): most is pruned early (as the authors' code, in x for epochs)."""
    return -math.expm1(-EXPONENT * x) / -math.expm1(-EXPONENT)


def cubic(x: float) -> float:
    """f = x^3: most is pruned late, 12.5 % of the target at half time (the authors' public code calls this cubic)."""
    return x**3


def cubic_ease_out(x: float) -> float:
    """f = 1 - (1 - x)^3: most is pruned early, 87.5 % at half time (Zhu & Gupta, arXiv 1710.01878: the usual cubic)."""
    return 1 - (1 - x) ** 3


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "cubic": cubic,
    "cubic-ease-out": cubic_ease_out,
}


def default_span(epochs: int) -> tuple[int, int]:
    """(start, end) for a run of `epochs`: the paper's 10 and 180 of 250 in proportion, over by the last."""
    start = epochs * 10 // 250
    return start, min(max(epochs * 180 // 250, start + 1), epochs - 1)


def pruning_rate(schedule: str, epoch: int, start: int, end: int, sparsity: float) -> float:
    """p_t, from 0 at epoch `start` to exactly `sparsity` from epoch `end` on; `sparsity` throughout where end = 0."""
    if epoch >= end:
        return sparsity
    if epoch <= start:
        return 0.0
    return sparsity * SCHEDULES[schedule]((epoch - start) / (end - start))


def count(fraction: float, candidates: int) -> int:
    """floor(fraction * candidates); a product that only floating error puts below a whole number counts as that one."""
    return int(fraction * candidates + 1e-6)


def pruned_count(sparsity: float, candidates: int) -> int:
    """How many of the candidates go: floor(sparsity * candidates), but one stays."""
    return min(count(sparsity, candidates), candidates - 1)
