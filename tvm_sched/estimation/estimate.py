"""How long a kernel or a network would take on a CPU that is not here: the machine model's inner loops, times their
trip counts, plus caches.

An estimate, by static analysis; nothing is measured. What is assumed:

- The main loop of a kernel takes what `machine_model` says of it. Trip counts, the stores of a tile, Winograd's
  transforms and what moves between L1 and L2 are the kernels' own estimates (`register_tile.cycles` and the like),
  which tuning on x86 was seen to agree with.
- Weights come from DRAM at each call, activations only where they exceed the last cache. DRAM is shared by the cores,
  and prefetching overlaps it with arithmetic perfectly: a call takes the longer of the two.
- What no kernel of ours computes (pooling, a pad's copy, sums of branches) moves its operands at
  `Costs.moved_bytes_per_cycle`.
- Calls cost nothing beside their work, cores do not throttle, and nothing else runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tvm import IRModule
from tvm.ir import GenericConst
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched import codegen, pipeline
from tvm_sched.estimation import machine_model
from tvm_sched.kernels import Kernel, kernel_of, seen_by
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.records.database import known_as, workload
from tvm_sched.targets import Target

LOOKS = 24  # of a kernel's tiles, its own estimate's best first
LOOPS = 3  # different main loops among them that are built
NO_LOOP = 4  # times what the pipes take that a multiply-add is taken to take where no main loop is found


@dataclass(frozen=True)
class Board:
    """What lies around the cores. Bytes and seconds."""

    ghz: float
    dram_gb_s: float  # sustained by all cores together
    last_cache_bytes: float

    def dram_seconds(self, call: "Call") -> float:
        """What a call has to wait for DRAM at least."""
        return (call.stored + (call.moved if call.moved > self.last_cache_bytes else 0)) / self.dram_gb_s * 1e-9


# Of LPDDR4X-4267's 17.1 GB/s; 10 is an assumption.
RASPBERRY_PI_5 = Board(ghz=2.4, dram_gb_s=10.0, last_cache_bytes=2 * 1024 * 1024)


@dataclass(frozen=True)
class Call:
    """Of a function in a network: the bytes of weights that it reads, those of the activations that it reads and
    writes, and the layer that it computes, if it computes one.
    """

    func: PrimFunc
    stored: int
    moved: int
    layer: str | None = None

    def moving_cycles(self, target: Target) -> float:
        """What it takes a function to do no more than move them, on the target's cores."""
        return (self.stored + self.moved) / target.costs.moved_bytes_per_cycle / target.cores


@dataclass(frozen=True)
class Guess:
    """The best of a kernel's tiles by estimate, and the cycles that a call takes on the busiest core."""

    tile: object
    cycles: float


class Estimator:
    """Estimates for one target, of so many cores; loops and kernels that were met are not looked at again."""

    def __init__(self, target: Target, loops: dict | None = None):
        """`loops`: cycles of loops that another Estimator of the same core has found, and will find. Raises UserError
        where no model is to be had.
        """
        machine_model.require(target)
        self.target, self.loops = target, {} if loops is None else loops
        self.guesses: dict[int, Guess | None] = {}

    def guess(self, func: PrimFunc) -> Guess | None:
        """The best tile of a function; None for one that no kernel of ours computes."""
        key = structural_hash(known_as(func))
        if key not in self.guesses:
            self.guesses[key] = self.best(func)
        return self.guesses[key]

    def best(self, func: PrimFunc) -> Guess | None:
        """The same, of a function that was not met before. Of equal estimates the kernel's own order decides."""
        kernel = kernel_of(func)
        if kernel is None:
            return None
        mod, target = workload(func), seen_by(func, self.target)
        problem = kernel.problem(Schedule(mod))
        found, met = [], set()
        for tile in kernel.tiles(problem, target)[:LOOKS]:
            key = target.number_bytes, *kernel.loop_key(problem, tile)
            if key in met or len(met) < LOOPS:
                met.add(key)
                fma_cycles = self.fma_cycles(key, kernel, mod, tile, target)
                found.append(Guess(tile, total_cycles(kernel, problem, tile, target, fma_cycles)))
        return min(found, key=lambda guess: guess.cycles)

    def fma_cycles(self, key: tuple, kernel: Kernel, mod: IRModule, tile, target: Target) -> float:
        """Cycles of a vector's multiply-add in the main loop of a tile; NO_LOOP times what the pipes take where there
        is none.
        """
        if key not in self.loops:
            loop = machine_model.main_loop_of(kernel, mod, tile, target)
            self.loops[key] = loop.cycles(target) / loop.fmas if loop else NO_LOOP / target.fma_per_cycle
        return self.loops[key]

    def network_seconds(self, mod: IRModule, board: Board) -> float:
        """Seconds of 'main' of a fused, not yet scheduled network (`pipeline.fused`)."""
        total = 0.0
        for call in calls(mod):
            guess = self.guess(call.func)
            cycles = guess.cycles if guess else call.moving_cycles(self.target)
            total += max(cycles / board.ghz * 1e-9, board.dram_seconds(call))
        return total


def calls(mod: IRModule) -> Iterator[Call]:
    """Those of 'main' of a fused network, without what is computed once, when the network is loaded."""
    prepared = set()
    for binding in pipeline.kernel_bindings(mod):
        name, args = binding.value.args[:2]
        weights = [arg for arg in args if isinstance(arg, GenericConst) or arg in prepared]
        if len(weights) == len(args):
            prepared.add(binding.var)
            continue
        moved = codegen.bytes_of(binding.var.ty) + sum(codegen.bytes_of(arg.ty) for arg in args if arg not in weights)
        stored = sum(codegen.bytes_of(each.ty) for each in weights)
        yield Call(mod[name], stored, moved, layer_of(binding.var))


def total_cycles(kernel: Kernel, problem, tile, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of a kernel's whole function, on the busiest core; `fma_cycles` as in `Kernel.cycles`."""
    return kernel.cycles(problem, tile, target, fma_cycles) + kernel.copying_cycles(problem, target)
