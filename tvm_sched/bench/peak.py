"""The machine's own fp32 peak, measured: fused multiply-adds in registers, and nothing else in the loop.

    accumulator[v] += a * b      for 12 vectors v in turn, a and b being vectors in registers too

Twelve independent accumulators are more than latency times rate of any CPU here (4 cycles x 2 a cycle), so each FMA can
start at once; with a and b they fit 16 registers. A peak is a candidate like a network: `bench.measure` takes both in
turn, on the same CPUs.
"""

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np

from tvm_sched import runtime, targets
from tvm_sched.bench.latency import Candidate
from tvm_sched.quiet import quiet

VECTORS = 12
ITERATIONS = 1 << 18  # of one call: half a millisecond to a millisecond


class Loop:
    """A kernel of TIR, called with a number of iterations, `given` arrays and the sums that it writes, on `threads` of
    the host's threads.
    """

    def __init__(self, kernel, threads: int, iterations: int, given: Sequence[np.ndarray], lanes: int):
        import tvm

        self.threads, self.iterations = threads, iterations
        self.shape = (threads, VECTORS, lanes)
        self._sums = tvm.runtime.empty(self.shape)
        self._arguments = [*map(tvm.runtime.tensor, given), self._sums]
        with quiet():
            self._run = tvm.compile(tvm.IRModule({"main": kernel}), target=targets.host().tvm())["main"]

    def __call__(self) -> None:
        """Runs the loop once."""
        self._run(self.iterations, *self._arguments)

    @property
    def sums(self) -> np.ndarray:
        """[threads, VECTORS, lanes], fp32"""
        return self._sums.numpy()

    @property
    def candidate(self) -> Candidate:
        """For `bench.measure`."""
        return Candidate(self, lambda: runtime.set_threads(self.threads))


class Peak(Loop):
    """In vectors of so many lanes, by default the host's. After a call its `sums` hold `start + iterations * a * b`."""

    def __init__(self, threads: int, iterations: int = ITERATIONS, lanes: int | None = None):
        lanes = lanes or targets.host().lanes
        # All different, or they would be one accumulator.
        self.start = np.arange(threads * VECTORS * lanes, dtype="float32").reshape(threads, VECTORS, lanes)
        self.a, self.b = np.full(lanes, 2, "float32"), np.full(lanes, 0.5, "float32")
        super().__init__(kernel(lanes, threads), threads, iterations, (self.a, self.b, self.start), lanes)

    def gflops(self, ms: float) -> float:
        """10^9 floating-point operations a second of a call that took so long; a multiply-add counts as two."""
        return 2 * self.iterations * prod(self.shape) / ms / 1e6


@cache
def of(threads: int, lanes: int | None = None) -> Peak:
    """The peak of so many threads and lanes, compiled once a process."""
    return Peak(threads, lanes=lanes)


def kernel(lanes: int, threads: int):
    """The kernel in TensorIR, its loops in their final order."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    def each_lane(store):
        """`store(v, lane)` for each number of the accumulators."""
        with T.unroll(VECTORS) as v, T.vectorized(lanes) as lane:
            store(v, lane)

    # Not by `T.prim_func` as a decorator: its parser walks the sources of every loaded module.
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("peak")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        iterations = T.arg("iterations", T.int32())
        a, b = (T.arg(name, T.buffer((lanes,), "float32")) for name in ("a", "b"))
        start, sums = (T.arg(name, T.buffer((threads, VECTORS, lanes), "float32")) for name in ("start", "sums"))
        with T.parallel(threads) as thread, T.sblock("registers"):
            accumulator = T.sblock_alloc_buffer((VECTORS, lanes), scope="local")
            each_lane(lambda v, lane: T.buffer_store(accumulator, start[thread, v, lane], [v, lane]))
            with T.serial(iterations):
                each_lane(
                    lambda v, lane: T.buffer_store(
                        accumulator, T.fma(a[lane], b[lane], accumulator[v, lane]), [v, lane]
                    )
                )
            each_lane(lambda v, lane: T.buffer_store(sums, accumulator[v, lane], [thread, v, lane]))
    return builder.get()
