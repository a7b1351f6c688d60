"""What a network would take on a CPU, before it is compiled: the time of each kernel from tuning records where there is
one, else its own estimate.

    seconds = sum over calls of max(kernel's seconds, bytes from DRAM / bandwidth)

An estimate (`kernels.register_tile.cycles` and its like, by which tiles are chosen) counts multiply-adds, loads and
transforms. Records correct it: of the kernels of one kind that have both, the geometric mean of recorded over estimated
time is a factor for the estimates of that kind's others, so that networks whose kernels were tuned and networks whose
kernels were not can be compared. Functions that are none of our kernels (pooling, sums) move their operands at a fixed
rate. Calls cost nothing.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from types import ModuleType

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched.estimation.estimate import (
    MOVED_PER_CYCLE,
    Board,
    Call,
    calls,
    kernel_cycles,
)
from tvm_sched.kernels import space_to_depth
from tvm_sched.passes.tir.schedule_functions import kernel_of
from tvm_sched.records.best import BestRecords
from tvm_sched.records.database import Records, workload
from tvm_sched.targets.target import Target


@dataclass(frozen=True)
class Prediction:
    """Seconds of a network, and which share of them measurements tell."""

    seconds: float
    measured: float


@dataclass(frozen=True)
class Kernel:
    """Seconds of a function by estimate, and as recorded. `kind` is None, and so are both, of what is none of our
    kernels.
    """

    kind: ModuleType | None = None
    estimated: float | None = None
    recorded: float | None = None
    measured: bool = False


def predict(
    networks: Mapping[Hashable, IRModule], target: Target, board: Board, records: Records | BestRecords | None
) -> dict[Hashable, Prediction]:
    """The prediction of each network, given as fused, not yet scheduled functions (`pipeline.fused`)."""
    kernels: dict[int, Kernel] = {}
    made_of = {
        key: [(call, structural_hash(workload(call.func))) for call in calls(mod)] for key, mod in networks.items()
    }
    for network in made_of.values():
        for call, known in network:
            if known not in kernels:
                kernels[known] = kernel(call.func, target, board, records)
    factors = corrections(kernels.values())
    return {
        key: _network([(call, kernels[known]) for call, known in network], factors, target, board)
        for key, network in made_of.items()
    }


def kernel(func: PrimFunc, target: Target, board: Board, records: Records | BestRecords | None) -> Kernel:
    """What is known of a function."""
    sch = Schedule(workload(func))
    kind, tiles = kernel_of(sch, target)
    if kind in (None, space_to_depth):
        return Kernel()
    estimated = kernel_cycles(kind, sch, tiles[0], target) / board.ghz / 1e9
    recorded = records and records.seconds(func, board.ghz)
    return Kernel(kind, estimated, recorded, bool(recorded) and records.kind(func) == "record")


def corrections(kernels) -> dict[ModuleType | None, float]:
    """Kind -> recorded over estimated time; None -> that of all kinds, for those without records. Empty without any."""
    ratios: dict[ModuleType | None, list[float]] = {}
    for each in kernels:
        if each.recorded:
            for kind in (each.kind, None):
                ratios.setdefault(kind, []).append(each.recorded / each.estimated)
    return {kind: geometric_mean(some) for kind, some in ratios.items()}


def _network(network: list[tuple[Call, Kernel]], factors: dict, target: Target, board: Board) -> Prediction:
    total = measured = 0.0
    for call, known in network:
        seconds = known.recorded
        if seconds is None and known.kind is None:
            seconds = (call.stored + call.moved) / MOVED_PER_CYCLE / target.cores / board.ghz / 1e9
        elif seconds is None:
            seconds = known.estimated * factors.get(known.kind, factors.get(None, 1.0))
        measured += seconds if known.measured else 0.0
        total += max(seconds, board.dram_seconds(call))
    return Prediction(total, measured / total)
