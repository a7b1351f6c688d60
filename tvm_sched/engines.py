"""A network made ready in each engine that is compared: PyTorch eager, ONNX Runtime, and our artifact, dense or sparse.

Each becomes an `Engine`, a callable over a NumPy array, so that the same input goes through the same call everywhere:

    engines = [pytorch(network, threads=1), onnxruntime(network, threads=1), ours(artifact, network, threads=1)]
    rows = compare(engines, x)

The reference engines run at their best: inference mode, all graph optimisations, as many threads as asked for.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tvm_sched.bench import Candidate, Row, measure
from tvm_sched.pattern import find, kept_blocks

if TYPE_CHECKING:
    import torch

    Module = torch.nn.Module | torch.export.ExportedProgram


@dataclass(frozen=True)
class Network:
    """A network, and what a row of a table says of it. `Network.of` finds block size and sparsity in the zeros."""

    name: str
    module: "Module"  # in eval mode, on the CPU
    example_input: "torch.Tensor"  # [batch, ...]
    n: int | None  # block size of most layers with zero blocks; None where there are none
    sparsity: float  # fraction of the blocks of these layers that are zero

    @classmethod
    def of(cls, name: str, module: "Module", example_input: "torch.Tensor") -> "Network":
        """The network with what its weights say."""
        weights = [tensor.numpy() for tensor in eager(module).state_dict().values() if tensor.ndim in (2, 4)]
        found = [(weight, pattern.n) for weight in weights if (pattern := find(weight))]
        kept = [kept_blocks(weight, n) for weight, n in found]
        sizes = Counter(n for _, n in found)
        sparsity = 1 - sum(mask.sum() for mask in kept) / sum(mask.size for mask in kept) if kept else 0.0
        return cls(name, module, example_input, max(sizes, key=sizes.get, default=None), round(float(sparsity), 4))

    def reference(self, x: np.ndarray) -> np.ndarray:
        """What PyTorch computes for `x`: what every other stage is held against."""
        import torch

        with torch.inference_mode():
            return eager(self.module)(torch.from_numpy(x)).numpy()


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

    def max_error(self, x: np.ndarray, expected: np.ndarray) -> float:
        """Maximum absolute difference between this engine's output for `x` and `expected`."""
        self.prepare()
        return float(np.abs(self.call(x) - expected).max())


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
    """ONNX Runtime on the CPU, all graph optimisations on. `model`: the network's `onnx_bytes`, where at hand."""
    import onnxruntime as ort

    model = model or onnx_bytes(network.module, network.example_input)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Engine("onnxruntime", network, threads, lambda x: session.run(None, {name: x})[0], file_bytes=len(model))


def ours(artifact: Callable, network: Network, threads: int, *, path: str | os.PathLike, dense: bool = False) -> Engine:
    """An artifact compiled from the network and saved at `path`; `dense` if it was compiled to ignore the zeros."""
    from tvm_sched import runtime

    return Engine(
        name="subp-dense" if dense else "subp-sparse",
        network=network,
        threads=threads,
        call=artifact,
        prepare=partial(runtime.set_threads, threads),
        file_bytes=os.path.getsize(path),
        target=artifact.manifest["target"],
        dense=dense,
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
    """One row an engine, all measured in turn on the same input `x` [batch, ...] for about `seconds` together."""
    timings = measure({engine.name: Candidate(partial(engine.call, x), engine.prepare) for engine in engines}, seconds)
    best_dense = min((timings[engine.name].median_ms for engine in engines if engine.dense), default=None)
    return [
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
        )
        for engine in engines
        for timing in [timings[engine.name]]
    ]
