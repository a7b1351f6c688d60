"""The values of a program's operators: as PyTorch computes them, and as compiled code does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import tvm
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from tvm import relax

from tvm_sched import pipeline
from tvm_sched.frontend import aten
from tvm_sched.frontend.aten.program import stored_values, user_outputs
from tvm_sched.frontend.torch_export import Imported
from tvm_sched.pipeline import Built, Compilation
from tvm_sched.verification.reference import own_tensor

Values = dict[fx.Node, Any]


class Interpreter(fx.Interpreter):
    """Runs a program in core operators node by node on the tensors among its user's inputs."""

    def __init__(self, core: ExportedProgram):
        super().__init__(core.graph_module)
        self.core = core
        self.values: Values = {}

    def run_on(self, tensors: Sequence[torch.Tensor]) -> Values:
        """Every node's value."""
        super().run(*placeholder_values(self.core, iter(tensors)))
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        """As fx's, but keeps the value."""
        self.values[n] = super().run_node(n)
        return self.values[n]


def placeholder_values(core: ExportedProgram, tensors: Iterator[torch.Tensor]) -> list:
    """What the graph's placeholders stand for: parameters, buffers, constants, and the user's inputs."""
    known = stored_values(core)
    found: list = []
    for spec in core.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            found.append(known[spec.target])
        else:
            found.append(next(tensors) if isinstance(spec.arg, TensorArgument) else spec.arg.value)
    return found


def values(core: ExportedProgram, inputs: Sequence[np.ndarray]) -> Values:
    """Every node's value by PyTorch."""
    with torch.no_grad():
        return Interpreter(core).run_on(list(map(own_tensor, inputs)))


def tensor_nodes(core: ExportedProgram) -> list[fx.Node]:
    """The nodes that compute one tensor, in the graph's order."""
    return [
        node
        for node in core.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    ]


def output_node(core: ExportedProgram, output: int) -> fx.Node:
    """The node of the user's output tensor of that number."""
    return user_outputs(core)[output]


def compiled_values(
    imported: Imported, compilation: Compilation, nodes: Sequence[fx.Node], inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The values of these nodes by code that is compiled as the network is, with them as its only outputs."""
    part = replace(imported, mod=aten.to_relax(imported.core, nodes))
    built = pipeline.build_network(part, replace(compilation, observe=None))
    return runner(built)(inputs)


def runner(built: Built) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """The built network's 'main', from arrays to arrays."""
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    prepared = machine[built.lowered.prepare]() if built.lowered.prepare else ()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        made = machine["main"](*map(tvm.runtime.tensor, inputs), *prepared)
        return [each.numpy() for each in ([made] if hasattr(made, "numpy") else made)]

    return run
