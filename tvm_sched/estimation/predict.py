"""What a network would take on a CPU, before it is compiled: the time of each kernel from tuning records where there is
one, else its own estimate.

    seconds = sum over calls of max(kernel's seconds, bytes from DRAM / bandwidth)

An estimate (`Kernel.cycles`, by which tiles are chosen) counts multiply-adds, loads and transforms. Records correct it:
of the functions of one kernel that have both, the geometric mean of recorded over estimated time is a factor for the
estimates of that kind's others, so that networks whose kernels were tuned and networks whose kernels were not can be
compared. Functions that are none of our kernels (pooling, sums) move their operands at a fixed rate. Calls cost
nothing.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import geometric_mean

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched.estimation.estimate import Board, Call, calls, total_cycles
from tvm_sched.kernels import Kernel, kernel_of, seen_by
from tvm_sched.records.database import known_as, workload
from tvm_sched.records.recorded import KnownRecords
from tvm_sched.targets import Target


@dataclass(frozen=True)
class Prediction:
    """Seconds of a network, which share of them measurements tell, and those of each layer, by name."""

    seconds: float
    measured: float
    layers: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Known:
    """Seconds of a function by estimate, and as recorded. `kernel` is None, and so are both, of what holds none."""

    kernel: Kernel | None = None
    estimated: float | None = None
    recorded: float | None = None
    measured: bool = False


def predict(
    networks: Mapping[Hashable, IRModule], target: Target, board: Board, records: KnownRecords | None
) -> dict[Hashable, Prediction]:
    """The prediction of each network, given as fused, not yet scheduled functions (`pipeline.fused`)."""
    made_of = {
        key: [(call, structural_hash(known_as(call.func))) for call in calls(mod)] for key, mod in networks.items()
    }
    met: dict[int, Known] = {}
    for network in made_of.values():
        for call, key in network:
            if key not in met:
                met[key] = known(call.func, target, board, records)
    factors = corrections(met.values())
    return {
        name: _network([(call, met[key]) for call, key in network], factors, target, board)
        for name, network in made_of.items()
    }


def known(func: PrimFunc, target: Target, board: Board, records: KnownRecords | None) -> Known:
    """What is known of a function."""
    kernel = kernel_of(func)
    if kernel is None:
        return Known()
    target = seen_by(func, target)
    problem = kernel.problem(Schedule(workload(func)))
    tile = kernel.tiles(problem, target)[0]
    estimated = total_cycles(kernel, problem, tile, target) / board.ghz / 1e9
    recorded = records and records.known(func)
    if recorded is None:
        return Known(kernel, estimated)
    return Known(kernel, estimated, recorded.seconds(board.ghz), not recorded.estimated)


def corrections(functions: Iterable[Known]) -> dict[Kernel | None, float]:
    """Kernel -> recorded over estimated time; None -> that of all, for those without records. Empty without any."""
    ratios: dict[Kernel | None, list[float]] = {}
    for each in functions:
        if each.recorded:
            for kernel in (each.kernel, None):
                ratios.setdefault(kernel, []).append(each.recorded / each.estimated)
    return {kernel: geometric_mean(some) for kernel, some in ratios.items()}


def _network(network: list[tuple[Call, Known]], factors: dict, target: Target, board: Board) -> Prediction:
    total = measured = 0.0
    layers: dict[str, float] = {}
    for call, function in network:
        seconds = function.recorded
        if seconds is None and function.kernel is None:
            seconds = call.moving_cycles(target) / board.ghz / 1e9
        elif seconds is None:
            seconds = function.estimated * factors.get(function.kernel, factors.get(None, 1.0))
        measured += seconds if function.measured else 0.0
        seconds = max(seconds, board.dram_seconds(call))
        total += seconds
        if call.layer is not None:
            layers[call.layer] = layers.get(call.layer, 0.0) + seconds
    return Prediction(total, measured / total, layers)
