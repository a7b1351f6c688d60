"""A sparsifier's layers found again: in its own model, and in copies of it, which may be wrapped."""

from collections.abc import Mapping

from torch import Tensor, nn

from subp.pruning import masking
from subp.pruning.masking import Mask
from subp.pruning.selection import Place, all_places
from subp_contract.errors import UserError, require


def require_present(model: nn.Module, places: Mapping[str, Place]) -> None:
    """Raises UserError, naming them, where layers are not in the model any more."""
    layers = {id(layer) for layer in model.modules()}
    gone = [name for name, place in places.items() if id(place.layer) not in layers]
    require(
        not gone,
        f"{', '.join(gone[:3])} is masked, but no longer in the model: make the sparsifier after layers are replaced, "
        "or put the masked one back",
    )


def masks_of_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Mask]]:
    """(the copy, out of its wrappers; its masks by the same names) of a model whose masks, by layer, are given.

    Wrappers (AveragedModel, DistributedDataParallel, torch.compile) put one prefix before all names. Raises UserError
    where the model has not masks of these shapes on these layers, and no others.
    """
    found = {
        name: masking.mask_of(*place)
        for name, place in all_places(model).items()
        if place.weight in masking.masked_weights(place.layer)
    }
    first = next(iter(masks))
    for prefix in [name.removesuffix(first) for name in found if name.endswith(first)]:
        own = {name: found.get(prefix + name) for name in masks}
        fits = all(mask is not None and mask.mask.shape == masks[name].shape for name, mask in own.items())
        if fits and len(found) == len(masks):
            return model.get_submodule(prefix.rstrip(".")), {name: mask for name, mask in own.items() if mask}
    raise UserError(
        f"the {type(model).__name__} has other masks than this sparsifier: give a copy of its model, made after the "
        "sparsifier was"
    )
