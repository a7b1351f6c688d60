"""`quantize`: from a network and examples of its inputs to a program with quantise/dequantise pairs."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_flatten, tree_map

from subp_contract.errors import UserError
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.aten.source_place import operator
from tvm_sched.frontend.sources import network_of

if TYPE_CHECKING:
    from tvm_sched.frontend.sources import Source

QUANTISE = {"quantize_per_tensor", "quantize_per_channel", "quantize_linear"}
Call = tuple[tuple, dict[str, Any]]  # (args, kwargs)


def quantize(
    module: "Source",
    calibration: Iterable[Any],
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    weight_bits: int = 8,
) -> ExportedProgram:
    """Quantises a network to 8 bits: weights to int8 by output channel, symmetrically, so that zeros stay zeros;
    activations to uint8 by tensor, in the ranges that they take in calibration. `sites` of `subp_quantizer` says which.

    module:         nn.Module (in eval mode), torch.export.ExportedProgram, or an ONNX file; it stays as it is
    calibration:    batches of inputs, some hundred examples as a rule: each a tensor, or a tuple of the positional
                    arguments; prepared as for the network in use. Where a batch may be of any size, so may they
    example_inputs, example_kwargs: of the program, as `compile` takes them; by default the first batch
    weight_bits:    8, or 7, which uses -63 to 63: x86 CPUs without VNNI multiply such weights up to twice as fast, and
                    `compile` of a float32 network takes them there

    Returns a program with quantise/dequantise pairs, for `compile` or `torch.export.save`. Where the network takes
    batches of any size it does too, and `compile` fixes that by its own example.
    Raises UserError for no calibration data, for numbers that are not finite, for inputs that the network does not
    take, for a network in which nothing is quantised, or that is quantised already, and for other `weight_bits`.
    """
    return quantised_but(module, calibration, example_inputs, example_kwargs, weight_bits=weight_bits)


def quantised_but(
    module: "Source",
    calibration: Iterable[Any],
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    wide: Collection[str] = (),
    weight_bits: int = 8,
) -> ExportedProgram:
    """As `quantize`; `wide` as `calibrated` takes it."""
    batches = numbered(calibration)
    first = next(batches)
    example = first
    if example_inputs is not None or example_kwargs:
        example = torch_export.arguments(example_inputs, example_kwargs)
    network, _ = network_of(module, example[0])
    return calibrated(float_program(network, example), chain([first], batches), example, wide, weight_bits)


def calibrated(
    program: ExportedProgram,
    batches: Iterable[Call],
    example: Call,
    wide: Collection[str] = (),
    weight_bits: int = 8,
) -> ExportedProgram:
    """A float32 program in 8 bits, but for the sites whose first operators' names are `wide`. `batches`: as of
    `numbered`. Raises UserError where the program does not take one.
    """
    from subp_quantizer import quantization

    open_batch = torch_export.is_open(program)
    prepared = quantization.prepared(program, wide=wide, weight_bits=weight_bits)
    wanted = _leaves(example)
    with torch.no_grad():
        for number, batch in enumerate(batches, 1):
            require_alike(batch, wanted, number, open_batch)
            prepared(*batch[0], **batch[1])
    if not open_batch:
        return quantization.converted(prepared, *example)
    args = _twice(example[0])
    made = quantization.converted(prepared, args, dynamic_shapes=_open(args))
    made.example_inputs = example
    return made


def numbered(calibration: Iterable[Any]) -> Iterator[Call]:
    """The batches as calls. Raises UserError where there is none, and for one that holds nothing, or what is not
    finite.
    """
    number = 0
    for number, batch in enumerate(calibration, 1):
        call = torch_export.arguments(batch, None)
        tensors = [leaf for leaf in tree_flatten(call)[0] if isinstance(leaf, Tensor)]
        if not tensors or not all(tensor.numel() for tensor in tensors):
            raise UserError(f"calibration batch {number} is empty: give batches of the network's inputs")
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(
                    f"calibration batch {number} holds numbers that are not finite (NaN or infinite): leave them out, "
                    "as ranges are taken from what is given"
                )
        yield call
    if not number:
        raise UserError("there is no calibration data: give batches of the network's inputs, some hundred examples")


def require_alike(batch: Call, wanted: list, number: int, open_batch: bool) -> None:
    """Raises UserError where a batch is not of the shapes and dtypes that the program is for."""
    given = _leaves(batch)
    if len(given) != len(wanted):
        raise UserError(
            f"calibration batch {number} has {len(given)} inputs, and the network takes {len(wanted)}: give a tuple of "
            "its arguments, without labels"
        )
    for one, other in zip(given, wanted, strict=True):
        if not isinstance(other, Tensor) or not isinstance(one, Tensor):
            continue
        axes = slice(1 if open_batch else 0, None)
        if one.ndim != other.ndim or one.shape[axes] != other.shape[axes] or one.dtype != other.dtype:
            rest = ", in batches of any size" if open_batch else ""
            raise UserError(
                f"calibration batch {number} has an input of {_described(one)}, where the network takes "
                f"{_described(other)}{rest}: prepare the data as for the network"
            )


def in_8_bits(
    network: torch.nn.Module | ExportedProgram,
    calibration: Iterable[Any] | None,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    wide: Collection[str] = (),
    weight_bits: int = 8,
) -> torch.nn.Module | ExportedProgram:
    """A network for `precision="int8"`: as it is where it is quantised already, else quantised but for the sites that
    are `wide`. Raises UserError where that takes calibration data and there is none.
    """
    if isinstance(network, ExportedProgram) and is_quantised(network):
        return network
    if calibration is None:
        raise UserError(
            "precision int8 takes calibration data: give some batches of the network's inputs (calibration=, or "
            "--calibrate DATA on the command line), or a network that is quantised already"
        )
    return quantised_but(network, calibration, example_inputs, example_kwargs, wide, weight_bits)


def is_quantised(program: ExportedProgram) -> bool:
    """Whether a program has quantised values in it."""
    return any(operator(node) in QUANTISE for node in program.graph.nodes)


def require_float(program: ExportedProgram) -> None:
    """Raises UserError for a program with quantised values in it."""
    if is_quantised(program):
        raise UserError("the network is quantised already: compile it as it is, or give the one in float32")


def float_program(network: torch.nn.Module | ExportedProgram, example: Call) -> ExportedProgram:
    """The network as a program in float32, for batches of any size if it allows that; one of an ONNX file has a fixed
    one. Raises UserError where it is quantised already.
    """
    program = _exported(network, example)
    require_float(program)
    return program


def _exported(network: torch.nn.Module | ExportedProgram, example: Call) -> ExportedProgram:
    if isinstance(network, ExportedProgram):
        return network
    args, kwargs = example
    if not kwargs and not hasattr(network, "stored"):
        twice = _twice(args)
        try:
            return torch_export.export(network, twice, dynamic_shapes=_open(twice))
        except UserError:  # told below, if it is not for the open size
            pass
    return torch_export.export(network, args, kwargs)


def _twice(args: tuple) -> tuple:
    """Arguments with batches of at least two: of one, torch.export would take the size for fixed."""

    def two(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == 1 else leaf

    return tree_map(two, args)


def _open(args: tuple) -> tuple:
    """torch.export's `dynamic_shapes` of positional arguments whose first axes may have any size."""
    return tree_map(lambda leaf: {0: Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim else None, args)


def _leaves(call: Call) -> list[Any]:
    return tree_flatten(call)[0]


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
