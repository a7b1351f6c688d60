"""A network made ready in each engine that is compared: PyTorch eager, ONNX Runtime, and our artifact, dense or sparse.

Each becomes an `Engine`, a callable over a NumPy array, so that the same input goes through the same call everywhere:

    engines = [pytorch(network, threads=1), onnxruntime(network, threads=1), ours(artifact, network, path)]
    rows = compare(engines, x)

The reference engines run at their best: inference mode, all graph optimisations, as many threads as asked for.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from subp_contract.errors import UserError
from subp_contract.pattern import SIZES, find, kept_blocks, occupancy
from tvm_sched.bench import peak
from tvm_sched.bench.latency import Candidate, fastest_cpus, measure, pinned
from tvm_sched.bench.rows import Row, file_limit
from tvm_sched.deploy.artifact import Cost

if TYPE_CHECKING:
    import torch

    from tvm_sched.deploy.artifact import Artifact

    Module = torch.nn.Module | torch.export.ExportedProgram


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

    def only_input(self) -> "torch.Tensor":
        """The example input. Raises UserError where the network takes others than one tensor."""
        import torch

        if not isinstance(self.example_input, torch.Tensor):
            raise UserError(
                f"{self.name} takes other inputs than one tensor, which only 'compile', 'tune' and 'run' know"
            )
        return self.example_input

    def reference(self, x: np.ndarray) -> np.ndarray:
        """What PyTorch computes for `x`, or for an ONNX file ONNX Runtime: what every other stage is held against."""
        import torch

        if hasattr(self.module, "reference"):
            return self.module.reference(x)

        with torch.inference_mode():
            output = eager(self.module)(torch.from_numpy(x))
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
    rss_growth_bytes: int | None = (
        None  # what the process grew by when the network was loaded and called; None where not measured
    )


def pytorch(network: Network, threads: int) -> Engine:
    """PyTorch eager in inference mode."""
    import torch

    module = eager(network.module)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    return Engine("pytorch", network, threads, call, partial(torch.set_num_threads, threads), weights)


def onnxruntime(network: Network, threads: int, model: bytes | None = None) -> Engine:
    """ONNX Runtime on the CPU, all graph optimisations on, on an ONNX file itself. `model`: the network's `onnx_bytes`,
    where at hand.
    """
    import onnxruntime as ort

    stored = model or getattr(network.module, "stored", None) or onnx_bytes(network.module, network.example_input)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    size = len(stored) if isinstance(stored, bytes) else stored.stat().st_size
    return Engine("onnxruntime", network, threads, lambda x: session.run(None, {name: x})[0], file_bytes=size)


REFERENCES = {"torch": pytorch, "onnxruntime": onnxruntime}


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
        cost=artifact.cost(),
    )


def eager(module: "Module") -> "torch.nn.Module":
    """The module itself, or the one that an exported program stands for."""
    import torch

    return module.module() if isinstance(module, torch.export.ExportedProgram) else module


def onnx_bytes(module: "Module", example_input: "torch.Tensor") -> bytes:
    """The network as an ONNX model, weights included."""
    import torch

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (example_input,), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def compare(engines: Sequence[Engine], x: np.ndarray, seconds: float = 10.0) -> list[Row]:
    """One row an engine, all measured in turn on the same input `x` [batch, ...] for about `seconds` together, the
    machine's peak among them.

    The engines' thread counts are the same: the calling thread keeps to that many CPUs, the fastest. Engines that are
    not ours have the dense cost of the first one that is.
    """
    machine = peak.of(engines[0].threads)
    candidates = {
        str(number): Candidate(partial(engine.call, x), engine.prepare) for number, engine in enumerate(engines)
    }
    with pinned(fastest_cpus(machine.threads)):
        *timings, peak_timing = measure(candidates | {"peak": machine.candidate}, seconds).values()
    gflops = machine.gflops(peak_timing.min_ms)
    best_dense = min(
        (timing.median_ms for engine, timing in zip(engines, timings, strict=True) if engine.dense), default=None
    )
    dense_macs = next((engine.cost.dense_macs for engine in engines if engine.cost), None)
    rows = []
    for engine, timing in zip(engines, timings, strict=True):
        kept_macs = engine.cost.kept_macs if engine.cost else dense_macs
        rows.append(
            Row(
                network=engine.network.name,
                engine=engine.name,
                target=engine.target,
                n=engine.network.n,
                sparsity=engine.network.sparsity,
                batch=x.shape[0],
                threads=engine.threads,
                median_ms=timing.median_ms,
                p90_ms=timing.p90_ms,
                min_ms=timing.min_ms,
                ratio_to_best_dense=best_dense and best_dense / timing.median_ms,
                file_bytes=engine.file_bytes,
                dense_macs=dense_macs,
                kept_macs=kept_macs,
                peak_gflops=gflops,
                peak_median_gflops=machine.gflops(peak_timing.median_ms),
                time_over_d=dense_macs and timing.median_ms / (2e-6 * dense_macs / gflops),
                share_of_peak=kept_macs and 2e-6 * kept_macs / timing.median_ms / gflops,
                file_limit_bytes=engine.cost and file_limit(engine.cost.stored_bytes),
                workspace_bytes=engine.cost and engine.cost.workspace_bytes,
                weights_bytes=engine.cost and engine.cost.weights_bytes,
                rss_growth_bytes=engine.rss_growth_bytes,
            )
        )
    return rows
