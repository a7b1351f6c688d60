"""A network made ready in each engine that is compared: PyTorch eager, those of `peers`, and our artifact, dense or
sparse.

Each becomes an `Engine`, a callable over a NumPy array, so that the same input goes through the same call everywhere:

    engines = [pytorch(network, threads=1), peer("onnxruntime", network, threads=1), ours(artifact, network, path)]
    rows = compare(engines, x)

The reference engines run at their best: inference mode, all graph optimisations, as many threads as asked for.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from subp_contract.errors import UserError
from subp_contract.pattern import SIZES, find, kept_blocks, occupancy
from tvm_sched import targets
from tvm_sched.bench import core_state, peak, peers
from tvm_sched.bench.latency import Candidate, Timing, fastest_cpus, measure_rounds, pinned, timings
from tvm_sched.bench.rows import Row, file_limit
from tvm_sched.deploy.artifact import Cost

if TYPE_CHECKING:
    import torch

    from tvm_sched.deploy.artifact import Artifact

    Module = torch.nn.Module | torch.export.ExportedProgram


CALIBRATION = 8  # batches


@dataclass(frozen=True)
class Network:
    """A network, and what a row of a table says of it: block size and sparsity as its zeros tell."""

    name: str
    module: "Module | None"  # in eval mode, on the CPU; None where only a compiled file is at hand
    # [batch, ...]; all of its arguments where it takes others than one tensor, or None where `module` holds an example
    example_input: "torch.Tensor | tuple | None"
    n: int | None  # block size of most layers that hold blocks of zeros; None where there are none
    sparsity: float  # fraction of the blocks of these layers that are zero

    @classmethod
    def of(cls, name: str, module: "Module", example_input: "torch.Tensor | tuple | None") -> "Network":
        """A PyTorch network."""
        used = [occupancy(tensor.numpy()) for tensor in eager(module).state_dict().values() if tensor.ndim in (2, 4)]
        kept = {n: [] for n in SIZES}
        for layer in used:
            if pattern := find(layer):
                kept[pattern.n].append(kept_blocks(layer, pattern.n))
        n = max(SIZES, key=lambda size: len(kept[size]))
        if not kept[n]:
            return cls(name, module, example_input, None, 0.0)
        density = sum(mask.sum() for mask in kept[n]) / sum(mask.size for mask in kept[n])
        return cls(name, module, example_input, n, round(1 - float(density), 4))

    @classmethod
    def of_artifact(cls, name: str, artifact: "Artifact") -> "Network":
        """The network that an artifact was compiled from."""
        sizes = [choice.n for choice in artifact.explain() if choice.n]
        if not sizes:
            return cls(name, None, None, None, 0.0)
        n = max(sizes, key=sizes.count)
        layers = [choice for choice in artifact.explain() if choice.n == n]
        density = sum(layer.density * layer.total for layer in layers) / sum(layer.total for layer in layers)
        return cls(name, None, None, n, round(1 - density, 4))

    @cached_property
    def eager(self) -> "torch.nn.Module":
        """The module itself, or the one that an exported program stands for."""
        return eager(self.module)

    @cached_property
    def onnx(self) -> bytes:
        """The network as an ONNX model, weights included, also those that its own file keeps in others beside it."""
        import onnx

        stored = getattr(self.module, "stored", None)
        if isinstance(stored, Path):
            return onnx.load(stored).SerializeToString()
        return stored or onnx_bytes(self.module, self.only_input())

    @cached_property
    def onnx_int8(self) -> bytes:
        """The same in int8."""
        return peers.quantised(self.onnx, self)

    def only_input(self) -> "torch.Tensor":
        """The example input. Raises UserError where the network takes others than one tensor."""
        import torch

        if not isinstance(self.example_input, torch.Tensor):
            raise UserError(
                f"{self.name} takes other inputs than one tensor, which only 'compile', 'tune' and 'run' know"
            )
        return self.example_input

    def random_inputs(self) -> list[np.ndarray]:
        """CALIBRATION batches of standard normal images, in whose ranges networks of random weights are quantised."""
        rng, shape = np.random.default_rng(0), self.only_input().shape
        return [rng.standard_normal(shape, dtype="float32") for _ in range(CALIBRATION)]

    def options(self, precision: str) -> dict:
        """What `compile` takes for that precision."""
        import torch

        if precision not in ("int8", "auto"):
            return {"precision": precision}
        return {"precision": precision, "calibration": [torch.from_numpy(x) for x in self.random_inputs()]}

    def reference(self, x: np.ndarray) -> np.ndarray:
        """What PyTorch computes for `x`, or for an ONNX file ONNX Runtime: what every other stage is held against."""
        import torch

        if hasattr(self.module, "reference"):
            return self.module.reference(x)

        with torch.inference_mode():
            output = self.eager(torch.from_numpy(x))
        if not isinstance(output, torch.Tensor):
            raise UserError(f"{self.name} has several outputs; only networks with one can be compared")
        return output.numpy()


@dataclass(frozen=True)
class Engine:
    """A network in one engine: `call` maps the input to the output, `prepare` sets what is global to the process."""

    name: str
    network: Network
    threads: int
    call: Callable[[np.ndarray], np.ndarray]
    prepare: Callable[[], object] = lambda: None
    file_bytes: int = 0  # that the network takes on disk for this engine
    target: str = "host"
    dense: bool = True  # computes zeros like any other number
    cost: Cost | None = None  # of our engines
    # What the process grew by when the network was loaded and called; None where that was not measured.
    rss_growth_bytes: int | None = None
    precision: str = "float32"
    weights: str = "float32"  # dtype in which it may store them


def pytorch(network: Network, threads: int) -> Engine:
    """PyTorch eager in inference mode."""
    import torch

    module = eager(network.module)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    return Engine("pytorch", network, threads, call, partial(torch.set_num_threads, threads), weights)


def peer(name: str, network: Network, threads: int) -> Engine:
    """Another engine on the CPU, one of `peers.PEERS`. Raises UserError where its package is not installed."""
    chosen = peers.PEERS[name]
    model = network.onnx_int8 if chosen.precision == "int8" else network.onnx
    call = chosen.make(model, network, threads)
    return Engine(name, network, threads, call, file_bytes=len(model), precision=chosen.precision)


REFERENCES: dict[str, Callable[[Network, int], Engine]] = {"torch": pytorch} | {
    name: partial(peer, name) for name in peers.PEERS
}


def ours(artifact: "Artifact", network: Network, path: str | os.PathLike) -> Engine:
    """An artifact compiled from the network and saved at `path`, on its own number of threads."""
    dense = artifact.manifest["dense"]
    return Engine(
        name="subp-dense" if dense else "subp-sparse",
        network=network,
        threads=artifact.threads,
        call=artifact,
        file_bytes=os.path.getsize(path),
        target=artifact.manifest["target"],
        dense=dense,
        precision=artifact.manifest["precision"],
        cost=artifact.cost(),
        weights=artifact.manifest.get("weights", "float32"),
    )


def eager(module: "Module") -> "torch.nn.Module":
    """The module itself, or the one that an exported program stands for."""
    import torch

    return module.module(check_guards=False) if isinstance(module, torch.export.ExportedProgram) else module


def onnx_bytes(module: "Module", example_input: "torch.Tensor") -> bytes:
    """The network as an ONNX model, weights included."""
    import torch

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (example_input,), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def lanes_of(target: str) -> int | None:
    """Those of a named target's vectors; None for the host, and for a target file, which need not be here any more."""
    return targets.get(target).lanes if target in targets.NAMED else None


def compare(
    engines: Sequence[Engine],
    x: np.ndarray,
    seconds: float = 10.0,
    minutes: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """One row an engine, all measured in turn on the same input `x` [batch, ...] for about `seconds` together, the
    machine's peak and the loop of loads among them. `minutes`: for so long at the most until the core was in a good
    state for enough rounds (`core_state`), of which alone the rows then are; where it never was, of all. `progress`: as
    of `latency.measure_rounds`, for each `seconds` anew.

    The engines' thread counts are the same: the calling thread keeps to that many CPUs, the fastest. Engines that are
    not ours have the dense cost of the first one that is.
    """
    machine = peak.of(engines[0].threads, lanes_of(engines[0].target))
    calls = {str(number): Candidate(partial(engine.call, x), engine.prepare) for number, engine in enumerate(engines)}
    end, before = time.monotonic() + 60 * minutes, core_state.Steal.now()
    with pinned(fastest_cpus(machine.threads)):
        rounds = measure_rounds(calls | core_state.loops(machine), seconds, progress=progress)
        good = core_state.undisturbed(rounds)
        while len(good) < core_state.LEAST_ROUNDS and time.monotonic() < end:
            rounds += measure_rounds(calls | core_state.loops(machine), seconds, progress=progress)
            good = core_state.undisturbed(rounds)
    after = core_state.Steal.now()
    used = good if minutes and good else list(zip(rounds, core_state.shares(rounds), strict=True))
    timed = timings([row for row, _ in used])
    found = Conditions(
        gflops=machine.gflops(timed[core_state.PEAK].min_ms),
        median_gflops=machine.gflops(timed[core_state.PEAK].median_ms),
        core_share=median(share for _, share in used),
        steal=after.since(before) if after and before else None,
        ghz=core_state.clock_ghz(),
        dense_macs=next((engine.cost.dense_macs for engine in engines if engine.cost), None),
    )
    own = [timed[name] for name in calls]
    best = {precision: fastest_dense(engines, own, precision) for precision in ("float32", "int8")}
    return [row_of(*each, found, best, x.shape[0]) for each in zip(engines, own, strict=True)]


@dataclass(frozen=True)
class Conditions:
    """What holds for all rows of one measurement."""

    gflops: float  # of the machine's peak, at its best
    median_gflops: float
    core_share: float
    steal: float | None
    ghz: float | None
    dense_macs: int | None  # of the network, for the whole batch; None where no engine tells


def fastest_dense(engines: Sequence[Engine], timed: Sequence[Timing], precision: str) -> float | None:
    """Median milliseconds of the fastest engine of that precision that skips nothing; None where there is none."""
    both = zip(engines, timed, strict=True)
    return min((timing.median_ms for each, timing in both if each.dense and each.precision == precision), default=None)


def row_of(engine: Engine, timing: Timing, found: Conditions, best: Mapping[str, float | None], batch: int) -> Row:
    """An engine's row. best: precision -> see `fastest_dense`."""
    cost = engine.cost
    kept_macs = cost.kept_macs if cost else found.dense_macs
    return Row(
        network=engine.network.name,
        engine=engine.name,
        target=engine.target,
        precision=engine.precision,
        weights=engine.weights,
        n=engine.network.n,
        sparsity=engine.network.sparsity,
        batch=batch,
        threads=engine.threads,
        median_ms=timing.median_ms,
        p90_ms=timing.p90_ms,
        min_ms=timing.min_ms,
        ratio_to_best_dense=best["float32"] and best["float32"] / timing.median_ms,
        ratio_to_best_int8=best["int8"] and best["int8"] / timing.median_ms,
        file_bytes=engine.file_bytes,
        dense_macs=found.dense_macs,
        kept_macs=kept_macs,
        peak_gflops=found.gflops,
        peak_median_gflops=found.median_gflops,
        time_over_d=found.dense_macs and timing.median_ms / (2e-6 * found.dense_macs / found.gflops),
        share_of_peak=kept_macs and 2e-6 * kept_macs / timing.median_ms / found.gflops,
        file_limit_bytes=cost and file_limit(cost.stored_bytes),
        workspace_bytes=cost and cost.workspace_bytes,
        weights_bytes=cost and cost.weights_bytes,
        rss_growth_bytes=engine.rss_growth_bytes,
        calls=timing.runs,
        core_share=found.core_share,
        steal=found.steal,
        ghz=found.ghz,
    )
