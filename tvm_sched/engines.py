"""A network made ready in each engine that is compared: PyTorch eager, ONNX Runtime, and our artifact, dense or sparse.

Each becomes an `Engine`, a callable over a NumPy array, so that the same input goes through the same call everywhere:

    engines = [pytorch(network, threads=1), onnxruntime(network, threads=1), ours(artifact, network, threads=1)]
    rows = compare(engines, x)

The reference engines run at their best honest settings: inference mode, all graph optimisations, as many threads as asked for.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tvm_sched.bench import Candidate, Row, measure

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """A network and what a row of a table says of it."""

    name: str
    module: "torch.nn.Module"  # in eval mode, on the CPU
    example_input: "torch.Tensor"  # [batch, ...]
    n: int | None  # block size of its zeros; None for a network without
    sparsity: float  # fraction of blocks pruned in the pruned layers


@dataclass(frozen=True)
class Engine:
    """A network in one engine. `call` maps the input to the output, `prepare` sets what is global to the process (thread counts)."""

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

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network.module(torch.from_numpy(x)).numpy()

    weights = sum(tensor.nbytes for tensor in network.module.state_dict().values())
    return Engine("pytorch", network, threads, call, partial(torch.set_num_threads, threads), weights)


def onnxruntime(network: Network, threads: int) -> Engine:
    """ONNX Runtime on the CPU, all graph optimisations on."""
    import onnxruntime as ort

    model = onnx_bytes(network.module, network.example_input)
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


def onnx_bytes(module: "torch.nn.Module", example_input: "torch.Tensor") -> bytes:
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
