"""How tiles and forms are ranked by estimates that are known to a few per cent."""

from math import log

EQUAL = 0.04  # relative difference of estimates that says nothing


def rounded(cycles: float) -> int:
    """A key to sort estimates by, the same for those that differ by no more than EQUAL: simplicity then decides."""
    return round(log(cycles) / EQUAL)


def divisors(number: int, limit: int) -> list[int]:
    """Divisors of `number` up to `limit`."""
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]
