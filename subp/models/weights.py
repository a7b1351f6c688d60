"""Weights from a local file into a model."""

import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from subp.errors import UserError


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state dict file, `torch.save`'s or .safetensors, whose names and shapes must be the model's."""
    state, own = read_state_dict(path), model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or state[key].shape != own[key].shape:
            there, here = (list(tensors[key].shape) if key in tensors else "missing" for tensors in (state, own))
            raise UserError(f"{path} does not fit the model: {key} is {there} in the file and {here} in the model")
    model.load_state_dict(state)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict file by name. Raises UserError for a path that is none."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a readable state dict file: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds something other than a state dict: save model.state_dict()")
    return state
