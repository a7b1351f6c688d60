"""How a scheduled function shares its work among threads: its parallel loops, counted.

`parallel` gives each of T threads one run of ceil(extent / T) steps, all steps of a loop being alike. So the busiest
thread has ceil(extent / T) * T / extent times the mean, and with an extent of 1 a function runs on one thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import tirx
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class ParallelLoop:
    """A loop that threads share."""

    extent: int
    times: int  # that a call of the function runs it: the steps of the loops around it


@dataclass(frozen=True)
class SharedCall:
    """A call of a function in 'main'."""

    function: str
    loops: tuple[ParallelLoop, ...]

    def to_json(self) -> list:
        """[function, [[extent, times], ...]]"""
        return [self.function, [[loop.extent, loop.times] for loop in self.loops]]

    @classmethod
    def from_json(cls, row: list) -> "SharedCall":
        """Of what `to_json` gave."""
        return cls(row[0], tuple(ParallelLoop(*each) for each in row[1]))

    @property
    def launches(self) -> int:
        """How often the call sets threads to work: a loop of one step is none once it is compiled."""
        return sum(loop.times for loop in self.loops if loop.extent > 1)

    def busiest(self, threads: int) -> float:
        """The busiest thread's work over the mean; as many as there are threads where nothing is shared."""
        return max((busiest(loop.extent, threads) for loop in self.loops), default=float(threads))


def busiest(extent: int, threads: int) -> float:
    """The busiest thread's work over the mean of all, in a loop of so many steps."""
    return ceil(extent / threads) * threads / extent


def parallel_loops(func: "PrimFunc") -> list[ParallelLoop]:
    """The parallel loops of a scheduled function, in the order in which they are met."""
    import tvm_ffi
    from tvm import tirx

    found: list[ParallelLoop] = []

    def walk(node: "tirx.Stmt", times: int) -> None:
        def visit(loop: "tirx.For") -> tvm_ffi.WalkResult:
            extent = int(loop.extent) if isinstance(loop.extent, tirx.IntImm) else 1  # of a scan: known as it runs
            if loop.kind == tirx.ForKind.PARALLEL:
                found.append(ParallelLoop(extent, times))
            else:
                walk(loop.body, times * extent)
            return tvm_ffi.WalkResult.SKIP

        tvm_ffi.structural_walk(node, (tirx.For, visit), order="pre")

    walk(func.body, 1)
    return found


def weighted(calls: Sequence[tuple[SharedCall, float]], threads: int) -> float:
    """The busiest thread's work over the mean of a whole network, of its calls with the work that each is."""
    total = sum(work for _, work in calls)
    return sum(call.busiest(threads) * work for call, work in calls) / total if total else 1.0


def busiest_rows(lengths: Sequence[int], threads: int, dealt: bool = False) -> float:
    """The busiest thread's blocks over the mean, where threads share block rows of these lengths: runs of
    ceil(rows / threads) rows, or rows `dealt` out, the longest first, each to the thread that has least (Graham's rule,
    within a third of the best).
    """
    if dealt:
        loads = [0] * threads
        for length in sorted(lengths, reverse=True):
            loads[loads.index(min(loads))] += length
    else:
        run = ceil(len(lengths) / threads)
        loads = [sum(lengths[start : start + run]) for start in range(0, len(lengths), run)]
    return max(loads) * threads / sum(loads)
