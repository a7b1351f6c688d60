"""In which state the core was while something was measured.

What another guest does on the same physical core halves its load ports for minutes, and a loop of multiply-adds in
registers (`peak`) sees nothing of it. So beside that loop runs a second one, in which each multiply-add takes its
scalar, and each step its weights, from the first cache, as the kernels do:

    accumulator[v] += weights[k] * pixels[v, k]      for 12 vectors v in turn

A round of bursts was taken in a good state where both loops were near the best that they have reached in the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from tvm_sched import targets
from tvm_sched.bench import peak
from tvm_sched.bench.latency import Candidate, Round

CHANNELS = 64  # of the pixels: 3 KiB of them, and at most 4 KiB of weights
ITERATIONS = 1 << 12  # of one call, over all channels: about half a millisecond
GOOD = 0.95  # share of both loops' best in a round that counts as undisturbed
LEAST_ROUNDS = 5  # in a good state that rows are made of
PEAK, LOADS = "peak", "loads"  # names of the loops among the candidates


class LoadLoop(peak.Loop):
    """After a call its `sums` hold `iterations` times the products' sums."""

    def __init__(self, threads: int, iterations: int = ITERATIONS):
        lanes = targets.host().lanes
        self.pixels = np.linspace(0, 1, peak.VECTORS * CHANNELS, dtype="float32").reshape(peak.VECTORS, CHANNELS)
        self.weights = np.full((CHANNELS, lanes), 2.0**-20, "float32")
        super().__init__(kernel(lanes, threads), threads, iterations, (self.pixels, self.weights), lanes)


@cache
def of(threads: int) -> LoadLoop:
    """The loop of so many threads, compiled once a process."""
    return LoadLoop(threads)


def kernel(lanes: int, threads: int):
    """The loop in TensorIR, its loops in their final order."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("loads")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        iterations = T.arg("iterations", T.int32())
        pixels = T.arg("pixels", T.buffer((peak.VECTORS, CHANNELS), "float32"))
        weights = T.arg("weights", T.buffer((CHANNELS, lanes), "float32"))
        sums = T.arg("sums", T.buffer((threads, peak.VECTORS, lanes), "float32"))
        with T.parallel(threads) as thread, T.sblock("registers"):
            accumulator = T.sblock_alloc_buffer((peak.VECTORS, lanes), scope="local")
            with T.unroll(peak.VECTORS) as v, T.vectorized(lanes) as lane:
                T.buffer_store(accumulator, T.float32(0), [v, lane])
            repeated, channels = T.serial(iterations), T.serial(CHANNELS)
            with repeated, channels as k, T.unroll(peak.VECTORS) as v, T.vectorized(lanes) as lane:
                T.buffer_store(accumulator, T.fma(weights[k, lane], pixels[v, k], accumulator[v, lane]), [v, lane])
            with T.unroll(peak.VECTORS) as v, T.vectorized(lanes) as lane:
                T.buffer_store(sums, accumulator[v, lane], [thread, v, lane])
    return builder.get()


def loops(machine: peak.Peak) -> dict[str, Candidate]:
    """Both, as candidates beside what is measured."""
    return {PEAK: machine.candidate, LOADS: of(machine.threads).candidate}


def shares(rounds: Sequence[Round]) -> list[float]:
    """Of each round the share of their best in the run that the loops gave, the worse of both."""
    best = {name: min(time for each in rounds for time in each[name]) for name in (PEAK, LOADS)}
    return [min(least / median(each[name]) for name, least in best.items()) for each in rounds]


def undisturbed(rounds: Sequence[Round]) -> list[tuple[Round, float]]:
    """Those in a good state, each with its share."""
    return [(each, share) for each, share in zip(rounds, shares(rounds), strict=True) if share >= GOOD]


@dataclass(frozen=True)
class Steal:
    """Ticks of all CPUs since the machine started: those that the host gave to others, and all."""

    stolen: int
    total: int

    @classmethod
    def now(cls, read: Callable[[], str] = Path("/proc/stat").read_text) -> "Steal | None":
        """None where the system does not say."""
        try:
            fields = read().partition("\n")[0].split()
        except OSError:
            return None
        numbers = [int(each) for each in fields[1:]]
        return cls(numbers[7], sum(numbers[:8])) if fields[:1] == ["cpu"] and len(numbers) > 7 else None

    def since(self, before: "Steal") -> float:
        """The share stolen from then to now."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def clock_ghz(read: Callable[[], str] = Path("/proc/cpuinfo").read_text) -> float | None:
    """The fastest CPU's clock now, as the system tells it; None where it does not."""
    try:
        lines = read().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(clocks) / 1000 if clocks else None
