"""What a user gives for a network, as a network: an .onnx file becomes an nn.Module, others are left as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subp_contract.arguments import require_kind
from subp_contract.errors import UserError

if TYPE_CHECKING:
    import onnx
    from torch import nn
    from torch.export import ExportedProgram

    Source = nn.Module | ExportedProgram | str | Path | onnx.ModelProto


def network_of(
    source: "Source", example_inputs: Any = None, shapes: Sequence[Sequence[int]] | None = None
) -> "tuple[nn.Module | ExportedProgram, Any]":
    """(network, example inputs). An ONNX file or model takes the shapes of the example inputs; without any it takes
    random numbers of these `shapes`, or of its own, of a batch of one. Raises UserError for another file, and where
    ONNX cannot be loaded.
    """
    if isinstance(source, str | Path) and Path(source).suffix != ".onnx":
        raise UserError(f"{source} is no .onnx file: give a module, an exported program, or an .onnx file")
    if not isinstance(source, str | Path) and type(source).__name__ != "ModelProto":
        import torch

        kinds = (torch.nn.Module, torch.export.ExportedProgram)
        require_kind("the network", source, kinds, "a torch.nn.Module, an exported program or an .onnx file")
        return source, example_inputs
    from tvm_sched.frontend.onnx import load

    if example_inputs is None:
        network = load(source, shapes=shapes)
        return network, network.example_inputs()
    given = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    return load(source, shapes=[tuple(each.shape) for each in given]), example_inputs
