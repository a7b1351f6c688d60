"""From a PyTorch network to a Relax module with its constants bound."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch.export import ExportedProgram
from tvm import IRModule

from subp_contract.errors import UserError
from subp_contract.modes import in_eval_mode
from tvm_sched.frontend import aten, batches
from tvm_sched.frontend.decompositions.table import decomposed


@dataclass(frozen=True)
class Imported:
    """A Relax module, in which each layer's result is named after the layer (`passes.graph.layer_names`).

    The module takes one of `parts` equal parts of the batch at a time.
    """

    mod: IRModule  # with a function 'main'
    program: ExportedProgram
    input_shape: tuple[int, ...]  # of the whole batch
    input_dtype: str
    parts: int = 1

    def reference(self, x: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """What PyTorch computes for `x`."""
        module = self.program.module()
        with torch.no_grad():
            made = [module(part) for part in torch.from_numpy(x).chunk(self.parts)]
        if isinstance(made[0], torch.Tensor):
            return torch.cat(made).numpy() if self.parts > 1 else made[0].detach().numpy()
        return tuple(
            (torch.cat(each) if self.parts > 1 else each[0]).detach().numpy() for each in zip(*made, strict=True)
        )


def from_torch(module: torch.nn.Module | ExportedProgram, example_input: torch.Tensor, parts: int = 1) -> Imported:
    """Imports an nn.Module (traced by torch.export in eval mode) or an ExportedProgram of one input, for one of `parts`
    parts of the batch.

    Raises UserError if torch.export or TVM's importer cannot take the network, or if its weights are not finite; the
    sentence names the reason.
    """
    program = module if isinstance(module, ExportedProgram) else export(module, example_input.chunk(parts)[0])
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"the network takes {len(inputs)} inputs; this compiler takes networks of one input tensor")
    if not isinstance(inputs[0].meta.get("val"), torch.Tensor):
        raise UserError("the network's input is no tensor; this compiler takes networks of one input tensor")
    shape, dtype = tuple(inputs[0].meta["val"].shape), str(inputs[0].meta["val"].dtype).removeprefix("torch.")
    if dtype != "float32":
        raise UserError(f"the network's input is {dtype}; this compiler takes float32")
    if not all(isinstance(extent, int) for extent in shape):
        raise UserError(
            f"the network was exported for an input of shape {list(shape)}; this compiler takes one fixed shape"
        )
    outputs = program.call_spec.out_spec
    if outputs.type not in (None, tuple, list) or not all(output.is_leaf() for output in outputs.children()):
        raise UserError(
            "the network returns something else than a tensor or a tuple of tensors; wrap it in a module that does not"
        )
    require_finite(program)
    mod = aten.to_relax(decomposed(program, aten.CONVERTERS))
    return Imported(mod, program, (shape[0] * parts, *shape[1:]) if shape else shape, dtype, parts)


def export(module: torch.nn.Module, example_input: torch.Tensor) -> ExportedProgram:
    """torch.export of `module` in eval mode, without gradients."""
    try:
        with in_eval_mode(module), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
            return torch.export.export(module, (example_input,))
    except Exception as error:  # of any kind: the network's own code runs
        raise UserError(
            f"torch.export cannot trace this network on an input of {list(example_input.shape)}: {first_line(error)}"
        ) from error


def require_finite(program: ExportedProgram) -> None:
    """Raises UserError where a parameter is not finite, or a statistic is NaN; a buffer may hold infinities, as a mask
    of attention does.
    """
    bad = [name for name, parameter in program.named_parameters() if not parameter.isfinite().all()]
    bad += [name for name, buffer in program.named_buffers() if buffer.isnan().any()]
    if bad:
        layer, _, weight = bad[0].rpartition(".")
        more = f", nor are those of {len(bad) - 1} others" if len(bad) > 1 else ""
        raise UserError(
            f"weights of layer {layer or weight} ({weight}) are not finite{more}: was training cut off, or did it "
            "diverge?"
        )


def in_parts(module: torch.nn.Module | ExportedProgram, example_input: torch.Tensor, cache_bytes: int) -> Imported:
    """Imports a network for as large a part of the batch as caches of that size hold (`batches.parts`)."""
    return from_torch(module, example_input, batches.parts(module, example_input, cache_bytes))


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
