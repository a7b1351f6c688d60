"""From a PyTorch network to a Relax module with its constants bound."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map_only
from tvm import IRModule, relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from subp_contract.errors import UserError
from subp_contract.modes import in_eval_mode
from tvm_sched.frontend import batches, recurrent, signatures
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.relax_tools import is_op
from tvm_sched.signature import Signature, is_bfloat16, numpy_dtype, unflatten

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
    signature: Signature  # for the whole batch
    parts: int = 1

    @cached_property
    def eager(self) -> torch.nn.Module:
        """The program as a module."""
        return self.program.module()

    def reference(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """What PyTorch computes for the inputs, flat lists both."""
        given = [from_array(array) for array in arrays]
        made = []
        for part in zip(*(tensor.chunk(self.parts) for tensor in given), strict=True) if self.parts > 1 else [given]:
            args, kwargs = unflatten(self.signature.input_structure, part)
            with torch.no_grad():
                result = self.eager(*args, **kwargs)
            made.append([leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)])
        return [to_array(torch.cat(each) if self.parts > 1 else each[0]) for each in zip(*made, strict=True)]


def from_torch(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> Imported:
    """Imports an nn.Module (traced by torch.export in eval mode) or an ExportedProgram, for one of `parts` parts of the
    batch.

    example_inputs, example_kwargs: as `arguments` takes them; not needed with an ExportedProgram
    Raises UserError if torch.export or TVM's importer cannot take the network, or if its weights are not finite; the
    sentence names the reason.
    """
    if isinstance(module, ExportedProgram):
        program = module
    else:
        args, kwargs = arguments(example_inputs, example_kwargs)
        program = export(module, tuple(arg.chunk(parts)[0] for arg in args) if parts > 1 else args, kwargs)
    signature = signatures.signature_of(program)
    require_finite(program)
    try:
        core = recurrent.decomposed(program)
        require_indexing_from_the_front(core)
        mod = imported(signatures.tensors_alone(core))
    except UserError:
        raise
    except Exception as error:  # of any kind: TVM's importer has many ways to stop
        raise UserError(f"TVM cannot import this network: {first_line(error)}") from error
    return Imported(mod, program, signatures.of_parts(signature, parts), parts)


def arguments(example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> tuple[tuple, dict[str, Any]]:
    """(args, kwargs) of a call: a tuple holds the positional arguments, anything else is the only one; each a tensor, a
    constant, or a pytree of them. A tensor that stands at two places becomes two, else torch.export takes the two
    inputs for one.
    """
    if example_inputs is None and not example_kwargs:
        raise UserError("example inputs are missing: give a tensor, or a tuple of the network's arguments")
    args = example_inputs if type(example_inputs) is tuple else () if example_inputs is None else (example_inputs,)
    seen: set[int] = set()

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in seen:
            return tensor.clone()
        seen.add(id(tensor))
        return tensor

    return tree_map_only(torch.Tensor, apart, (args, dict(example_kwargs or {})))


def export(
    module: torch.nn.Module, example_inputs: Any, example_kwargs: Mapping[str, Any] | None = None
) -> ExportedProgram:
    """torch.export of `module` in eval mode, without gradients, on examples as `arguments` takes them."""
    args, kwargs = arguments(example_inputs, example_kwargs)
    try:
        with in_eval_mode(module), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
            return torch.export.export(module, args, kwargs)
    except Exception as error:  # of any kind: the network's own code runs
        shapes = [list(leaf.shape) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        given = f"an input of {shapes[0]}" if len(shapes) == 1 else f"inputs of {', '.join(map(str, shapes))}"
        raise UserError(f"torch.export cannot trace this network on {given}: {first_line(error)}") from error


def from_array(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor, which shares its memory where that can be written to."""
    array = np.require(array, requirements=["C", "W"])
    return torch.from_numpy(array.view("int16")).view(torch.bfloat16) if is_bfloat16(array) else torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor on the CPU as an array."""
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.contiguous().view(torch.int16).numpy().view(numpy_dtype("bfloat16"))


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


def in_parts(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    cache_bytes: int,
) -> Imported:
    """Imports a network for as large a part of the batch as caches of that size hold (`batches.parts`)."""
    if isinstance(module, ExportedProgram):
        return from_torch(module)
    args, kwargs = arguments(example_inputs, example_kwargs)
    alone = len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs
    parts = batches.parts(module, args[0], cache_bytes) if alone else 1
    return from_torch(module, args, kwargs, parts)


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
