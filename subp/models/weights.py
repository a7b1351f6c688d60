"""Weights from a local file into a model."""

import argparse
import io
import pickle
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subp.pruning.masking import fold_state_dict
from subp_contract.errors import UserError, require
from subp_contract.files import require_file

_OURS = "subp"  # the key in a header that marks our checkpoints, see training/checkpoint.py
_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict
# What wrappers put before each name: DataParallel and averages (AveragedModel also counts, in `n_averaged`), and a
# LightningModule that keeps its network as `model`, or `net`. torch.compile puts its own wherever it was applied.
_PREFIXES = ("module.", "model.", "net.", "network.")
_COMPILED, _COUNTER = "_orig_mod.", "n_averaged"
_STEPS = ".num_batches_tracked"  # of batch norm: older state dicts have none
_EXTRA = "_extra_state"  # what PyTorch calls the result of a module's get_extra_state


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads the state dict in a file, whose names and shapes must be the model's."""
    fill(model, unwrapped(read_state_dict(path), model), f"{path} does not fit the model")


def unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict as if its network had not been wrapped, by torch.compile, DistributedDataParallel, an average or a
    LightningModule, when it was saved: of the ways to take wrappers off the first that gives most of the model's names.
    """
    own = model.state_dict().keys()
    candidates = [state, {name.replace(_COMPILED, ""): value for name, value in state.items() if name != _COUNTER}]
    for each in candidates:  # which grows: wrappers stand within each other
        for prefix in _PREFIXES:
            if inner := {name.removeprefix(prefix): value for name, value in each.items() if name.startswith(prefix)}:
                candidates.append(inner)
    return max(candidates, key=lambda each: (len(own & each.keys()), -len(each.keys() - own)))


def is_state_dict(path: Path) -> bool:
    """Whether a file is not of subp's: of torch.save, or of safetensors without our header. A damaged one of
    safetensors is not: it is for the checkpoint's reader to tell.
    """
    if path.suffix != ".safetensors":
        return True
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _OURS not in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """{"num_classes", "in_channels"} of the network whose weights these are, as its last and first layers tell. Raises
    UserError where there is no layer.
    """
    weights = [tensor for tensor in state.values() if tensor.ndim > 1]
    require(bool(weights), "there is no weight in the file")
    # Files of safetensors have names in the order of the alphabet: of an "fc.weight" [O, I] before "layer1...".
    linear = [tensor for tensor in weights if tensor.ndim == 2] or weights
    convolutions = [tensor for tensor in weights if tensor.ndim > 2] or weights
    return {"num_classes": linear[-1].shape[0], "in_channels": convolutions[0].shape[1]}


def fill(model: nn.Module, state: dict[str, Tensor], misfit: str) -> None:
    """Loads a state dict. Raises UserError, the sentence `misfit` and what differs, if its names or shapes are not the
    model's.
    """
    own = model.state_dict()
    parts = {
        "missing": [name for name in own if name not in state and not name.endswith(_STEPS)],
        "unknown": [name for name in state if name not in own],
        "of another shape": [
            f"{name} is {list(state[name].shape)} in the file and {list(own[name].shape)} in the model"
            for name in own
            if name in state and _has_shape(own[name]) and state[name].shape != own[name].shape
        ],
    }
    differences = [f"{what}: {_first(names)}" for what, names in parts.items() if names]
    if differences:
        raise UserError(f"{misfit} ({'; '.join(differences)})")
    model.load_state_dict({name: own[name] for name in own if name not in state} | state)


def _has_shape(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value)


def as_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict that safetensors takes: what modules give by `get_extra_state` as bytes. `from_tensors` undoes it.

    Raises UserError for extra state that could not be read again, as it holds more than tensors and plain values.
    """
    tensors = dict(state)
    for name in filter(_is_extra, state):
        file = io.BytesIO()
        torch.save(state[name], file)
        tensors[name] = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        _extra(name, tensors[name])
    return tensors


def from_tensors(state: dict[str, Tensor]) -> dict[str, Any]:
    """The state dict of which `as_tensors` made this."""
    return {name: _extra(name, value) if _is_extra(name) else value for name, value in state.items()}


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA


def _extra(name: str, content: Tensor) -> Any:
    try:
        return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name}, of a layer's get_extra_state, holds more than tensors and plain values, which is not saved: let "
            "get_extra_state give a dictionary of those"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict file by name: of .safetensors, of what torch.save wrote (also nested under
    "state_dict"; masks of a Sparsifier's folded), or the folded network of a checkpoint of subp's, with averaged
    weights where they were averaged.

    Nothing but tensors and plain values is unpickled. Raises UserError for a path that is none of these.
    """
    require_file(path)
    try:
        state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds objects besides tensors, which are not loaded, or is damaged: save model.state_dict()"
        ) from error
    except UserError:
        raise
    except Exception as error:  # of any kind: unpicklers raise what the damage leads to
        raise UserError(f"{path} is not a readable state dict file: {_reason(error)}") from error
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds something other than a state dict: save model.state_dict()")
    others = [name for name, value in state.items() if not isinstance(value, Tensor) and not _is_extra(str(name))]
    require(not others, f"{path} holds something other than a state dict ({others[:1]}): save model.state_dict()")
    return fold_state_dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dictionary
        if _OURS not in (file.metadata() or {}):
            return state
    averaged = any(name.startswith("average.") for name in state)
    part = "average." if averaged else "model."
    own = {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}
    return fold_state_dict(from_tensors(own))


def _read_pickle(path: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # torchvision's scripts keep their options so
        state = torch.load(path, map_location="cpu", weights_only=True)
    nested = next((key for key in _NESTED if isinstance(state, dict) and isinstance(state.get(key), dict)), None)
    return state[nested] if nested else state


def _reason(error: Exception) -> str:
    """What a system's error says; PyTorch's readers tell of their own insides."""
    if isinstance(error, EOFError):
        return "it is empty or cut short"
    return error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or of another kind"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
