"""From a PyTorch network to a Relax module with its constants bound."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from tvm import IRModule, relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from subp_contract.errors import UserError
from subp_contract.modes import in_eval_mode
from tvm_sched.frontend import batches, recurrent
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.relax_tools import is_op

WEIGHT_AT = {"convolution": 1, "mm": 1, "bmm": 1, "addmm": 2}  # ATen's core operator -> its weight's argument
OPERATORS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.matmul")  # that it becomes
# What may stand between a parameter and the operator it weighs.
REARRANGED = {"permute", "transpose", "t", "expand", "view"}


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
    try:
        core = recurrent.decomposed(program)
        require_indexing_from_the_front(core)
        mod = imported(core)
    except UserError:
        raise
    except Exception as error:  # of any kind: TVM's importer has many ways to stop
        raise UserError(f"TVM cannot import this network: {first_line(error)}") from error
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


def require_indexing_from_the_front(program: ExportedProgram) -> None:
    """Raises UserError for x[:, i, j] with tensors i and j: TVM's importer takes i from one axis, then j from the next,
    every pair of them.
    """
    for node in program.graph.nodes:
        if operator(node) == "index":
            axes = [axis for axis, index in enumerate(node.args[1]) if index is not None]
            if len(axes) > 1 and axes != list(range(len(axes))):
                place = (node.meta.get("stack_trace") or "").strip().splitlines()[-1:] or [node.name]
                raise UserError(
                    f"the network picks elements along axes {axes} together, but not along those before "
                    f"({place[0].strip()}), which TVM's importer "
                    "gets wrong: move these axes to the front before picking"
                )


def in_parts(module: torch.nn.Module | ExportedProgram, example_input: torch.Tensor, cache_bytes: int) -> Imported:
    """Imports a network for as large a part of the batch as caches of that size hold (`batches.parts`)."""
    return from_torch(module, example_input, batches.parts(module, example_input, cache_bytes))


def imported(program: ExportedProgram) -> IRModule:
    """TVM's import of a program in core operators, the results of layers named."""
    importer = _Importer()
    importer.program = program
    options = {"keep_params_as_input": False, "unwrap_unit_return_tuple": True, "no_bind_return_tuple": False}
    return importer.from_exported_program(program, custom_convert_map=None, **options)


class _Importer(ExportedProgramImporter):
    """TVM's importer, which knows of each node that it converts whether it is a layer."""

    program: ExportedProgram
    block_builder: "relax.BlockBuilder | _NamingBuilder"

    def create_convert_map(self) -> dict[str, Callable]:
        return {name: self.named(convert, name.split(".")[0]) for name, convert in super().create_convert_map().items()}

    def named(self, convert: Callable, name: str) -> Callable:
        """A converter whose operator of Relax has the layer's name; a bias, which it adds behind, has not."""
        if name not in WEIGHT_AT:
            return convert

        def converted(node: torch.fx.Node) -> relax.Expr:
            weight = node.args[WEIGHT_AT[name]]
            assert isinstance(weight, torch.fx.Node)
            layer = name_of(source(weight), node, self.program)
            builder, self.block_builder = self.block_builder, _NamingBuilder(self.block_builder, layer)
            try:
                return convert(node)
            finally:
                self.block_builder = builder

        return converted


class _NamingBuilder:
    """A block builder that names the result of a layer's operator."""

    def __init__(self, builder: relax.BlockBuilder, layer: str):
        self.builder, self.layer = builder, layer

    def emit(self, expr: relax.Expr, *args: Any, **kwargs: Any) -> relax.Var:
        """As the builder's."""
        if any(is_op(expr, name) for name in OPERATORS):
            return emit_layer(self.builder, expr, self.layer)
        return self.builder.emit(expr, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.builder, name)


def operator(node: torch.fx.Node) -> str:
    """ATen's name for what a node computes: 'conv2d' of 'aten.conv2d.default'."""
    return node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else ""


def source(node: torch.fx.Node) -> torch.fx.Node:
    """Where a weight comes from: a parameter, or what computes it."""
    while operator(node) in REARRANGED:
        node = node.all_input_nodes[0]
    return node


def name_of(weight: torch.fx.Node, node: torch.fx.Node, program: ExportedProgram) -> str:
    """The weight's name without 'weight', or of one that is computed the name of the module it is used in."""
    signature = program.graph_signature
    name = signature.inputs_to_parameters.get(weight.name) or signature.inputs_to_buffers.get(weight.name)
    if name:
        return name.removesuffix("weight").rstrip("._") or name
    path, _ = next(reversed(node.meta.get("nn_module_stack", {}).values()), ("", None))
    return path or node.name


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
