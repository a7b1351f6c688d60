"""Checkpoints: one safetensors file, tensors plus a JSON description in its header, written whole or not at all.

Tensors: `model.<name>` for the model's state dict (masks are buffers of it), `optimizer.<name>` for the optimizer's,
`average.<name>` for that of the model with averaged weights, where there is one; `quantised.program`, after training
for 8 bits, the bytes of the quantised network as `torch.export.save` writes it, for any batch size.
Metadata, JSON under the header key "subp":

    version         of this format, 1
    architecture    {"name", "num_classes", "in_channels"} for subp.models.create, or null for a model of the user's own
    classes         names, in the order of the logits
    preprocessing   {"size", "resize", "channels", "mean", "std"} of the images, see data.transforms.Preprocessing
    data            {"training", "validation"}: [number of images, a digest], see data.fingerprint
    sparsifier      its settings, or null after dense training
    sparsities      layer name -> fraction of its blocks that is pruned in the end; not there after dense training
    block_sizes     likewise -> outputs in a block
    churn           layer name -> [epoch, kept, of, pruned, grown] (block_masks.Churn) of each epoch that moved a mask;
                    empty after dense training, not there in older runs
    config          the training's settings
    epoch           epochs done
    fake_quantised  true between epochs that train for 8 bits: weights and ranges under names of their own
    scaler          state of the scaling of losses in fp16; not there otherwise
    history         one object an epoch: losses, accuracies, density, images/s
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor, nn

from subp import models
from subp.models import elsewhere, weights
from subp.pruning import masking
from subp.training import quantised
from subp_contract.arguments import path_of
from subp_contract.documents import of_kind, parse_json, shown
from subp_contract.errors import UserError, require
from subp_contract.files import require_file, write_atomically

VERSION = 1
_KEY = "subp"
_PARTS = ("model", "optimizer", "average", "quantised")

_Pixels = Annotated[int, msgspec.Meta(ge=1, le=2**14)]
_Channels = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Churn = dict[str, list[tuple[_Count, _Count, _Count, _Count, _Count]]]


class _Architecture(msgspec.Struct):
    """What `models.create` takes; a network of the user's may say less."""

    name: str = ""
    num_classes: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 1
    in_channels: _Channels = 1


class _Preprocessing(msgspec.Struct, forbid_unknown_fields=True):
    """As `data.transforms.Preprocessing`."""

    size: _Pixels
    channels: _Channels
    # Not asked for by who only needs the network:
    resize: _Pixels = 1
    mean: list[float] = []
    std: list[float] = []


class _Epoch(msgspec.Struct):
    """What is read of an epoch's history."""

    epoch: int = 0
    train_loss: float = 0.0
    val_loss: float = 0.0
    train_accuracy: float = 0.0
    val_accuracy: float = 0.0
    density: float = 1.0
    lr: float = 0.0
    images_per_s: float = 0.0


class _Data(msgspec.Struct):
    """Of which images a run was, see `run_files.images_of`."""

    training: list[int | str] = []
    validation: list[int | str] = []


class _Versioned(TypedDict):
    """What the header of any version has."""

    version: Any


class About(msgspec.Struct):
    """The metadata's values, where they are there."""

    architecture: _Architecture | None = None
    classes: list[str] = []
    preprocessing: _Preprocessing | None = None
    data: _Data = msgspec.field(default_factory=_Data)
    sparsifier: dict | None = None
    sparsities: dict[str, float] = {}
    block_sizes: dict[str, int] = {}
    churn: _Churn = {}
    config: dict = {}
    epoch: Annotated[int, msgspec.Meta(ge=0)] = 0
    scaler: dict = {}
    fake_quantised: bool = False
    history: list[_Epoch] = []


class _Done(msgspec.Struct):
    """What a resumed run tells of an epoch."""

    val_accuracy: float
    density: float


class _Scaler(TypedDict):
    """PyTorch's `GradScaler.state_dict`."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    _growth_tracker: int


class _OfRun(msgspec.Struct):
    """What resuming reads besides: it must be there."""

    config: dict
    classes: list[str]
    preprocessing: _Preprocessing
    epoch: int
    history: list[_Done]
    churn: _Churn = {}
    scaler: _Scaler | None = None


@dataclass
class Checkpoint:
    """What one file holds. `metadata` is JSON-able, as above, without the version."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    quantised: dict[str, Tensor] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes the file atomically: whatever happens on the way, `path` holds the old file or the whole new one.

    Raises UserError if it cannot be written (no such folder, disk full); nothing new is left behind then.
    """
    parts = {part: getattr(checkpoint, part) for part in _PARTS}
    tensors = {
        # safetensors takes neither views nor shared memory
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in weights.as_tensors(named).items()
    }
    metadata = {"format": "pt", _KEY: json.dumps({"version": VERSION, **checkpoint.metadata})}
    write_atomically(Path(path), safetensors.torch.save(tensors, metadata))


def load(path: str | Path) -> Checkpoint:
    """Reads a file that `save` wrote. Raises UserError, saying why, for any other."""
    path = require_file(path_of("the checkpoint", path))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dictionary
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error})") from error
    if _KEY not in header:
        raise UserError(
            f"{path} is a safetensors file, but not a checkpoint of subp's: its header has no {_KEY!r} entry"
        )
    metadata = parse_json(header[_KEY], _Versioned, f"the header of {path}")
    version = metadata.pop("version")
    if version != VERSION:
        raise UserError(
            f"{path} has checkpoint format {shown(str(version), 20)}, this version of subp reads format {VERSION}"
        )
    of_kind(metadata, About, f"the metadata of {path}")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        require(part in parts, f"{path} is damaged: it holds a tensor {key!r}")
        parts[part][name] = tensor
    return Checkpoint(metadata=metadata, **{part: weights.from_tensors(named) for part, named in parts.items()})


def load_run(path: str | Path) -> Checkpoint:
    """As `load`, of a run to be resumed. Raises UserError where it lacks what resuming takes."""
    found = load(path)
    of_kind(found.metadata, _OfRun, f"the metadata of {path}")
    return found


def fill(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Loads a state dict. Raises UserError, saying that `what` does not fit and where, if it is another network's."""
    weights.fill(model, state, f"{what} do not fit {type(model).__name__}")


def load_model(path: str | Path, model: nn.Module | None = None, *, as_trained: bool = False) -> tuple[nn.Module, dict]:
    """(model, metadata): the checkpoint's network, folded (plain modules, zeros in place), on the CPU, in eval mode;
    with averaged weights where they were averaged. After training for 8 bits it is the quantised network, of
    torch.export, for any number of images of the size that it was trained on.

    model:       the network to fill, not masked, for one that was passed to the training as it is, or made by a file of
                 the user's: loading a checkpoint runs no code that it names
    as_trained:  after training for 8 bits too the network in float32, whose weights the quantised one rounds

    Raises UserError for a file that `load` refuses, one between two epochs that train for 8 bits, and weights that do
    not fit the network, which is then as it was.
    """
    checkpoint = load(path)
    require(
        not checkpoint.metadata.get("fake_quantised"),
        f"{path} is of a run that trains for 8 bits, between two epochs: resume it to its end, and take the "
        "model.safetensors that it leaves",
    )
    if checkpoint.quantised and not as_trained:
        return quantised.module(quantised.unpacked(checkpoint.quantised, Path(path))), checkpoint.metadata
    architecture = checkpoint.metadata.get("architecture")
    if model is None:
        if architecture is None:
            raise UserError(f"{path} holds a network of your own: pass the model to load its weights into")
        require(
            {"name", "num_classes"} <= architecture.keys() <= {"name", "num_classes", "in_channels"},
            f"{path} is damaged: its architecture has the entries {sorted(architecture)}",
        )
        name = architecture["name"]
        require(
            not elsewhere.is_file(name),
            f"{path} holds a network that {name} makes: pass the model, on the command line by --code {name}",
        )
        model = models.create(**architecture)
    fill(model, masking.fold_state_dict(checkpoint.average or checkpoint.model), f"the weights in {path}")
    return model.eval(), checkpoint.metadata
