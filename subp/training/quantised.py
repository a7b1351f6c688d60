"""The quantised network that training for 8 bits leaves: a `torch.export` program, for any number of images."""

import io
from pathlib import Path

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of quantised programs
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from subp_contract.errors import require

_PROGRAM = "program"


def packed(program: ExportedProgram) -> dict[str, Tensor]:
    """As a checkpoint holds it: the bytes of its file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    return {_PROGRAM: torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}


def unpacked(tensors: dict[str, Tensor], path: str | Path) -> ExportedProgram:
    """What was `packed`. Raises UserError, naming the checkpoint's path, where it is damaged or could run code."""
    from subp.common import programs  # whose imports take a second

    require(_PROGRAM in tensors, f"{path} is damaged: it holds no quantised network")
    return programs.read(f"the quantised network in {path}", tensors[_PROGRAM].numpy().tobytes())[0]


def module(program: ExportedProgram) -> nn.Module:
    """The network of a program, in eval mode; takes what the program was exported for."""
    return usable(program.module(check_guards=False))


def usable(module: fx.GraphModule) -> fx.GraphModule:
    """The exported module itself; `eval()` is no error any more: it changes nothing."""
    for name in ("train", "eval"):
        vars(module).pop(name, None)
    return module
