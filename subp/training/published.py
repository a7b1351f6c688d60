"""Checkpoints of the SUBP authors' code -> a folded network: a dense weight and a mask for each pruned convolution.

They are state dicts, perhaps under "state_dict" and with "module." before each name, of ResNets named as torchvision's
and of a MobileNetV1 with `conv1.*` and `features.*`. Beside `<layer>.weight` stands `<layer>.mask`, 1 where a weight
is kept, of the weight's shape or of one that broadcasts to it, or a value a block, [O/N, I].
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from subp import models
from subp.models.weights import sizes
from subp.pruning.block_masks import expand_mask
from subp_contract.errors import UserError, require

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v1")
_MASK, _COUNTER = ".mask", ".num_batches_tracked"


def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without masks, their zeros in the weights. Raises UserError for a mask that fits no weight."""
    folded = {name: tensor for name, tensor in state.items() if not name.endswith(_MASK)}
    for name in state.keys() - folded.keys():
        weight_name = name.removesuffix(_MASK) + ".weight"
        require(weight_name in folded, f"{name} is a mask without a weight: there is no {weight_name}")
        folded[weight_name] = _masked(folded[weight_name], state[name], name)
    return folded


def _masked(weight: Tensor, mask: Tensor, name: str) -> Tensor:
    rows, *others = mask.shape or (0,)
    fits = rows and mask.ndim <= weight.ndim and weight.shape[0] % rows == 0
    require(
        bool(fits and all(size in (1, full) for size, full in zip(others, weight.shape[1:], strict=False))),
        f"{name} is {list(mask.shape)}, which does not fit a weight of {list(weight.shape)}",
    )
    return torch.where(expand_mask(mask != 0, weight.shape), weight, 0)


def recognised(state: dict[str, Tensor], names: Iterable[str] = ARCHITECTURES) -> tuple[dict, dict[str, Tensor]]:
    """(architecture, as subp.models.create takes it; the state dict under that network's own names) of a folded one.

    A network is recognised by its tensors: the same kinds (weight, bias, running mean, ...) and shapes, in the same
    order, whatever the layers are called. Raises UserError if no network among `names` is like that.
    """
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    for name in names:
        architecture = {"name": name, **sizes(state)}
        with torch.device("meta"):
            own = models.create(**architecture).state_dict()
        renamed = _renamed(state, [(key, tensor.shape) for key, tensor in own.items() if not key.endswith(_COUNTER)])
        if renamed is not None:
            counters = {
                key: torch.zeros(tensor.shape, dtype=tensor.dtype)
                for key, tensor in own.items()
                if key.endswith(_COUNTER)
            }
            return architecture, renamed | counters
    first = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(state.items())[:3])
    raise UserError(f"the file holds no network among {', '.join(names)}: its tensors begin with {first}")


def _renamed(state: dict[str, Tensor], own: list[tuple[str, torch.Size]]) -> dict[str, Tensor] | None:
    """`state` under the names of `own`, matched by name where all are there, else by order; None where they differ."""
    if len(state) != len(own):
        return None
    theirs = (
        {name: name for name, _ in own}
        if all(name in state for name, _ in own)
        else dict(zip((n for n, _ in own), state, strict=True))
    )
    pairs = [(name, shape, theirs[name], state[theirs[name]]) for name, shape in own]
    same = all(
        _kind(name) == _kind(other) and _squeezed(tensor.shape) == _squeezed(shape)
        for name, shape, other, tensor in pairs
    )
    return {name: tensor.reshape(shape) for name, shape, _, tensor in pairs} if same else None


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _squeezed(shape: torch.Size) -> list[int]:
    """A linear layer may be saved as a 1x1 convolution."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return sizes
