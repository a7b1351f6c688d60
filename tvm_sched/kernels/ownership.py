"""Whose lines a thread meets. What one core wrote lies in its caches, and another that writes there, or reads there out
of order, waits for each line.

Functions are scheduled one by one, so a rule says who is taken to have written an image, and to write it next: each
thread an equal run of its pixels.
"""

from tvm_sched.targets import Target


def foreign_cycles(numbers: float, pixels: int, bands: int, target: Target) -> float:
    """Cycles of a core for those of the `numbers` of an image of so many pixels that by the rule are another's, as each
    writes its share. Threads share `bands` runs of the pixels, and what is then left to share, of the channels.
    """
    foreign = 1 - bands / target.cores if bands < target.cores <= pixels else 0.0
    return numbers * target.number_bytes / target.cores * foreign / target.costs.foreign_bytes_per_cycle
