"""What a probe of a figure is, and the differences that most of them take.

A loop over the kept channels takes `kept * step + rest`, so of two problems that differ in nothing but `kept` the slope
is the step, and the intercept at no channels is what the loop stands in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_sched.bench.calibration.workloads import Workload
from tvm_sched.targets import Target

FEW, MANY = 16, 48  # kept channels of two problems that differ in nothing else: loops too long for LLVM to unroll


@dataclass(frozen=True)
class Trial:
    """What to time, and the figure that follows from the cycles of one call of each."""

    workloads: Sequence[Workload]
    solve: Callable[..., float]


@dataclass(frozen=True)
class Probe:
    """`trial` takes a target of one core, whose `costs` hold what earlier probes found. For a target that has no such
    figure it says why.
    """

    figure: str  # field of `Costs`
    isolates: str  # the term of an estimate that it inverts
    trial: Callable[[Target], Trial | str]


def slope(few: float, many: float) -> float:
    """Cycles of a kept channel, of those with FEW and with MANY."""
    return (many - few) / (MANY - FEW)


def intercept(few: float, many: float) -> float:
    """Cycles at no kept channel."""
    return few - FEW * slope(few, many)
