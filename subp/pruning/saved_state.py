"""What a saved state of a sparsifier must agree in with the one that takes it over."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from subp.pruning.methods.registry import hyperparameters
from subp.pruning.selection import Place, place_outputs
from subp_contract.errors import require

# what settings were before they were saved
_YOUNGER = {"multiple": 1, "target_latency": None, "target": "host", "vary_n": False}


def check(state: Mapping[str, Any], settings: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
    """Raises UserError, naming what differs, where the saved `state` has other settings or layers than these. Lists in
    its settings, as JSON has them, stand for tuples; settings younger than it were what they are by default.
    """
    known = isinstance(state, Mapping) and {"settings", "sparsities", "epoch", "masks"} <= state.keys()
    require(known, "this is no saved state of a Sparsifier: give what its state_dict() returned")
    was_settings = {name: each.default for name, each in hyperparameters().items()} | _YOUNGER
    was_settings |= state["settings"]
    for part, ours, theirs in (("settings", settings, was_settings), ("masks", masks, state["masks"])):
        others = sorted(ours.keys() ^ theirs.keys())
        names = ", ".join(others)
        require(not others, f"the {part} of the saved state and of this sparsifier differ: {names} in one only")
    for key, own in settings.items():
        saved = was_settings[key]
        saved = tuple(saved) if isinstance(saved, list) else saved
        require(
            saved == own,
            f"the saved state has {key} = {saved!r}, this sparsifier has {own!r}: make it with the same settings",
        )


def check_masks(saved: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError, naming the layer, where what is saved is no mask of the shape that the layer's is to have."""
    for name, shape in shapes.items():
        require(isinstance(saved[name], Tensor), f"the saved state is damaged: the mask of {name} is no tensor")
        require(
            saved[name].shape == shape,
            f"layer {name} has a mask of {list(shape)}, the saved state one of {list(saved[name].shape)}",
        )


def check_sparsities(saved: Mapping[str, float], own: Mapping[str, float], anew: bool) -> None:
    """Raises UserError, naming what differs, for other layers, or where the sparsities follow from the settings and are
    not these; `anew`: they do not, so those saved count.
    """
    others = sorted(own.keys() ^ saved.keys())
    require(not others, f"the sparsities saved are of other layers: {', '.join(others)} in one only")
    for name, sparsity in own.items():
        free = anew and isinstance(saved[name], float) and 0 <= saved[name] < 1
        require(
            free or saved[name] == sparsity,
            f"the saved sparsity of {name} is {saved[name]}, this sparsifier's {sparsity}",
        )


def check_sizes(saved: Mapping[str, int], own: Mapping[str, int], free: Mapping[str, Place]) -> None:
    """Raises UserError, naming what differs, for other layers or sizes of blocks than these; of the places that are
    `free`, sizes count as saved where they divide the outputs.
    """
    others = sorted(own.keys() ^ saved.keys())
    require(not others, f"the block sizes saved are of other layers: {', '.join(others)} in one only")
    for name, size in own.items():
        was = saved[name]
        fits = isinstance(was, int) and was >= 1 and name in free and place_outputs(free[name])[0] % was == 0
        require(fits or was == size, f"the saved block size of {name} is {was}, this sparsifier's {size}")
