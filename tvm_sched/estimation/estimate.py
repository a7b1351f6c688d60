"""How long a kernel or a network would take on a CPU that is not here: the machine model's inner loops, times their
trip counts, plus caches.

An estimate, by static analysis; nothing is measured. What is assumed:

- The main loop of a kernel takes what `machine_model` says of it. Trip counts, the stores of a tile, Winograd's
  transforms and what moves between L1 and L2 are the kernels' own estimates (`register_tile.cycles` and the like),
  which tuning on x86 was seen to agree with.
- Weights come from DRAM at each call, activations only where they exceed the last cache. DRAM is shared by the cores,
  and prefetching overlaps it with arithmetic perfectly: a call takes the longer of the two.
- What no kernel of ours computes (pooling, a pad's copy, sums of branches) moves its operands at `MOVED_PER_CYCLE`.
- Calls cost nothing beside their work, cores do not throttle, and nothing else runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from tvm import IRModule
from tvm.ir import GenericConst
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched import codegen, pipeline
from tvm_sched.estimation import machine_model
from tvm_sched.kernels import (
    depthwise_conv2d,
    direct_conv2d,
    pixel_lanes_conv2d,
    register_tile,
    space_to_depth,
    winograd_conv2d,
)
from tvm_sched.kernels.register_tile import FLOAT, Work
from tvm_sched.kernels.rewrites.fusion import find_block
from tvm_sched.passes.tir.schedule_functions import kernel_of
from tvm_sched.records.database import workload
from tvm_sched.targets.target import Target

MOVED_PER_CYCLE = 8  # bytes of operands and result together, by one core, from L2 or L3
IMMEDIATE = 16380  # bytes that the offset of a load of 4 bytes reaches on AArch64
LOOKS = 24  # of a kernel's tiles, its own estimate's best first
LOOPS = 3  # different main loops among them that are built


@dataclass(frozen=True)
class Board:
    """What lies around the cores. Bytes and seconds."""

    ghz: float
    dram_gb_s: float  # sustained by all cores together
    last_cache_bytes: float

    def dram_seconds(self, call: "Call") -> float:
        """What a call has to wait for DRAM at least."""
        return (call.stored + (call.moved if call.moved > self.last_cache_bytes else 0)) / self.dram_gb_s * 1e-9


RASPBERRY_PI_5 = Board(
    ghz=2.4, dram_gb_s=10.0, last_cache_bytes=2 * 1024 * 1024
)  # of LPDDR4X-4267's 17.1 GB/s; 10 is an assumption


@dataclass(frozen=True)
class Call:
    """Of a function in a network: the bytes of weights that it reads, and those of the activations that it reads and
    writes.
    """

    func: PrimFunc
    stored: int
    moved: int


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
        mod = workload(func)
        key = structural_hash(mod)
        if key not in self.guesses:
            self.guesses[key] = self.best(mod)
        return self.guesses[key]

    def best(self, mod: IRModule) -> Guess | None:
        """The same, of a module that was not met before. Of equal estimates the kernel's own order decides."""
        sch = Schedule(mod)
        kernel, tiles = kernel_of(sch, self.target)
        if kernel is None or kernel is space_to_depth:
            return None
        found, met = [], set()
        for tile in tiles[:LOOKS]:
            key = loop_key(kernel, sch, tile)
            if key in met or len(met) < LOOPS:
                met.add(key)
                found.append(
                    Guess(tile, kernel_cycles(kernel, sch, tile, self.target, self.fma_cycles(key, kernel, mod, tile)))
                )
        return min(found, key=lambda guess: guess.cycles)

    def fma_cycles(self, key: tuple, kernel, mod: IRModule, tile) -> float:
        """Cycles of a vector's multiply-add in the main loop of a tile; four times what the pipes take where there is
        no such loop.
        """
        if key not in self.loops:
            sch = Schedule(mod)
            kernel.schedule(sch, tile, self.target)
            loop = machine_model.main_loop(codegen.build(sch.mod, self.target).mod.inspect_source("asm"))
            self.loops[key] = loop.cycles(self.target) / loop.fmas if loop else 4 / self.target.fma_per_cycle
        return self.loops[key]

    def network_seconds(self, mod: IRModule, board: Board) -> float:
        """Seconds of 'main' of a fused, not yet scheduled network (`pipeline.fused`)."""
        total = 0.0
        for call in calls(mod):
            guess = self.guess(call.func)
            cycles = guess.cycles if guess else (call.stored + call.moved) / MOVED_PER_CYCLE / self.target.cores
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
        yield Call(mod[name], sum(codegen.bytes_of(each.ty) for each in weights), moved)


def kernel_cycles(kernel, sch: Schedule, tile, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of a function that holds `kernel`, on the busiest core. `fma_cycles` as in `register_tile.cycles`."""
    if kernel is depthwise_conv2d:
        return depthwise_conv2d.cycles(sch, tile, target, fma_cycles)
    notes = sch.get(find_block(sch, kernel.NAME)).annotations
    if kernel is winograd_conv2d:
        return winograd_conv2d.estimate(*winograd_conv2d.noted(notes), tile, target, fma_cycles)
    work = Work.of_block(notes)
    if kernel is pixel_lanes_conv2d:
        return pixel_lanes_conv2d.cycles(work, int(notes["pixel_lanes.lanes"]), tile, target, fma_cycles)
    pad = 2 * work.batch * prod(work.stride) * work.height * work.width * work.channels * FLOAT if work.padded else 0
    return register_tile.cycles(work, tile, target, fma_cycles) + pad / MOVED_PER_CYCLE / target.cores


def loop_key(kernel, sch: Schedule, tile) -> tuple:
    """What tells one main loop from another: neither the image's size nor how many channels are kept (though LLVM
    unrolls a loop over few).
    """
    block = sch.get(find_block(sch, kernel.NAME))
    if kernel is depthwise_conv2d:
        shape = [int(axis.dom.extent) for axis in block.iter_vars]
        return (
            kernel.NAME,
            tuple(shape[4:]),
            tuple(map(int, block.annotations["work.stride"])),
            shape[3] % 4,
            tile.rows,
            tile.cols,
        )
    work = Work.of_block(block.annotations)
    if kernel is pixel_lanes_conv2d:
        return kernel.NAME, work.n, work.indexed, tile.cols, tile.rows
    rows = tile.rows if kernel is direct_conv2d else 1
    near = rows == 1 and (tile.cols - 1) * work.stride[1] * work.channels * FLOAT <= IMMEDIATE
    return kernel.NAME, work.n, work.indexed, work.kernel, work.stride, work.padded, rows, tile.cols, tile.groups, near
