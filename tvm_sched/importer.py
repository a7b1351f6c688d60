"""From a PyTorch network to a Relax module with its constants bound."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.export import ExportedProgram

from tvm_sched.errors import UserError

WEIGHTED = ("conv", "linear", "addmm", "mm")  # ATen operators whose second input (third, of addmm) may be a layer's weight


@dataclass(frozen=True)
class Imported:
    """A Relax module, and what it has lost: the names of the layers, in the order of their operators."""

    mod: object  # tvm.IRModule with a function 'main'
    program: ExportedProgram
    layer_names: list[str]
    input_shape: tuple[int, ...]
    input_dtype: str

    def reference(self, x: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """What PyTorch computes for `x`."""
        with torch.no_grad():
            output = self.program.module()(torch.from_numpy(x))
        return output.numpy() if isinstance(output, torch.Tensor) else tuple(each.numpy() for each in output)


def from_torch(module, example_input: torch.Tensor) -> Imported:
    """Imports an nn.Module (traced by torch.export in eval mode) or an ExportedProgram of one input.

    Raises UserError if torch.export or TVM's importer cannot take the network; the sentence names the reason.
    """
    from tvm.relax.frontend.torch import from_exported_program

    program = module if isinstance(module, ExportedProgram) else export(module, example_input)
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"the network takes {len(inputs)} inputs; this compiler takes networks of one input tensor")
    shape, dtype = tuple(inputs[0].meta["val"].shape), str(inputs[0].meta["val"].dtype).removeprefix("torch.")
    if dtype != "float32":
        raise UserError(f"the network's input is {dtype}; this compiler takes float32")
    try:
        mod = from_exported_program(program, unwrap_unit_return_tuple=True)
    except Exception as error:  # of any kind: TVM's importer has many ways to stop
        raise UserError(f"TVM cannot import this network: {first_line(error)}") from error
    return Imported(mod, program, weighted_layers(program), shape, dtype)


def export(module: torch.nn.Module, example_input: torch.Tensor) -> ExportedProgram:
    """torch.export of `module` in eval mode, without gradients."""
    training = module.training
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), (example_input,))
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"torch.export cannot trace this network on an input of {list(example_input.shape)}: {first_line(error)}") from error
    finally:
        module.train(training)


def weighted_layers(program: ExportedProgram) -> list[str]:
    """Names of the convolutions and linear layers, in the order in which the network calls them."""
    parameters = program.graph_signature.inputs_to_parameters
    names = []
    for node in program.graph.nodes:
        if node.op == "call_function" and any(word in str(node.target) for word in WEIGHTED):
            weights = [parameters[arg.name] for arg in node.args if getattr(arg, "name", None) in parameters]
            names += [name.removesuffix(".weight") for name in weights if name.endswith("weight")][:1]
    return names


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
