"""From a PyTorch network to a Relax module with its constants bound."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map_only
from tvm import IRModule

from subp_contract.arguments import require_kind
from subp_contract.errors import UserError, first_line
from subp_contract.modes import in_eval_mode
from tvm_sched.frontend import aten, batches, signatures
from tvm_sched.frontend.decompositions.table import decomposed
from tvm_sched.quiet import unlogged
from tvm_sched.signature import Signature, is_bfloat16, numpy_dtype


@dataclass(frozen=True)
class Imported:
    """A Relax module, in which each layer's result is named after the layer (`passes.graph.layer_names`).

    The module takes one of `parts` equal parts of the batch at a time.
    """

    mod: IRModule  # with a function 'main'
    program: ExportedProgram
    core: ExportedProgram  # the same in ATen's core operators
    signature: Signature  # for the whole batch
    parts: int = 1


def from_torch(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> Imported:
    """Imports an nn.Module (traced by torch.export in eval mode) or an ExportedProgram, for one of `parts` parts of the
    batch.

    example_inputs, example_kwargs: as `arguments` takes them; not needed with an ExportedProgram
    Raises UserError if torch.export cannot take the network, if one of its operators has no converter, or if its
    weights are not finite; the sentence names the reason.
    """
    if isinstance(module, ExportedProgram):
        program = module
    else:
        args, kwargs = arguments(example_inputs, example_kwargs)
        program = export(module, tuple(arg.chunk(parts)[0] for arg in args) if parts > 1 else args, kwargs)
    signature = signatures.signature_of(program)
    if names := getattr(module, "tensor_names", None):  # as networks of another origin have
        signature = signatures.renamed(signature, *names)
    require_finite(program)
    core = decomposed(program, aten.CONVERTERS)
    return Imported(aten.to_relax(core), program, core, signatures.of_parts(signature, parts), parts)


def arguments(example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> tuple[tuple, dict[str, Any]]:
    """(args, kwargs) of a call: a tuple holds the positional arguments, anything else is the only one; each a tensor, a
    constant, or a pytree of them. A tensor that stands at two places becomes two, else torch.export takes the two
    inputs for one. Raises UserError where there are none, and for NumPy arrays.
    """
    if example_inputs is None and not example_kwargs:
        raise UserError("example inputs are missing: give a tensor, or a tuple of the network's arguments")
    if example_kwargs is not None:
        require_kind("example_kwargs", example_kwargs, Mapping, "a dictionary by name")
    for leaf in tree_leaves((example_inputs, example_kwargs)):
        if isinstance(leaf, np.ndarray):
            raise UserError("example inputs are torch tensors, not NumPy arrays: give torch.from_numpy(x)")
    args = example_inputs if type(example_inputs) is tuple else () if example_inputs is None else (example_inputs,)
    seen: set[int] = set()

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in seen:
            return tensor.clone()
        seen.add(id(tensor))
        return tensor

    return tree_map_only(torch.Tensor, apart, (args, dict(example_kwargs or {})))


def export(
    module: torch.nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """torch.export of `module` in eval mode, without gradients, on examples as `arguments` takes them; with sizes left
    open as torch.export's `dynamic_shapes` says. Raises UserError, with the cause, where torch.export fails.
    """
    args, kwargs = arguments(example_inputs, example_kwargs)
    try:
        with in_eval_mode(module), torch.no_grad(), unlogged(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
            if any(map(torch.nn.parameter.is_lazy, module.parameters())):
                module(*args, **kwargs)  # the first call makes the parameters of a lazy module
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # of any kind: the network's own code runs
        shapes = [list(leaf.shape) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        given = f"an input of {shapes[0]}" if len(shapes) == 1 else f"inputs of {', '.join(map(str, shapes))}"
        own = failure_of(module, args, kwargs)
        why = f", nor can it be called: {first_line(own)}" if own else f": {first_line(error)}"
        raise UserError(f"torch.export cannot trace this network on {given if shapes else 'that'}{why}") from error


def failure_of(module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Exception | None:
    """What the network itself raises for these arguments, which tells more than a tracer does; None if nothing."""
    try:
        with in_eval_mode(module), torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:  # of any kind: the network's own code runs
        return error
    return None


def is_open(program: ExportedProgram) -> bool:
    """Whether a program takes inputs of some open size."""
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"]
    extents = [extent for value in values if isinstance(value, torch.Tensor) for extent in value.shape]
    return not all(isinstance(extent, int) for extent in extents)


def fixed(
    program: ExportedProgram, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None
) -> ExportedProgram:
    """The program for inputs of the example's sizes, by default of its own example's, where it leaves some open. Raises
    UserError where it does not take them.
    """
    if not is_open(program):
        return program
    given = program.example_inputs
    if example_inputs is not None or example_kwargs:
        given = arguments(example_inputs, example_kwargs)
    if given is None:
        raise UserError("the program leaves a size open, and has no example: give example inputs")
    args, kwargs = given
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
            return torch.export.export(program.module(check_guards=False), args, dict(kwargs))
    except Exception as error:  # of any kind: guards of the program's
        shapes = ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))
        raise UserError(f"the program does not take inputs of {shapes}: {first_line(error)}") from error


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


def in_parts(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    cache_bytes: int,
) -> Imported:
    """Imports a network for as large a part of the batch as caches of that size hold (`batches.parts`)."""
    if isinstance(module, ExportedProgram):
        return from_torch(fixed(module, example_inputs, example_kwargs))
    args, kwargs = arguments(example_inputs, example_kwargs)
    alone = len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs
    parts = batches.parts(module, args[0], cache_bytes) if alone else 1
    return from_torch(module, args, kwargs, parts)
