"""Each layer's sparsity, from what is asked of the whole network and how it is shared out among the layers.

    budget = find_budget(model, places, candidates, settings, input_shape)        # raises what cannot be
    sparsities = find_sparsities(places, units, settings, budget)                 # name -> p_l

Two steps, as the first looks at shapes alone; in the second, "global" looks at the weights too, which `rearrange` may
have moved in between.
"""

from collections.abc import Sequence

from torch import nn

from subp.pruning.block_masks import unit_sums
from subp.pruning.budget import allocation
from subp.pruning.budget.budgets import Budget, Share
from subp.pruning.budget.macs import count_macs
from subp.pruning.masking import weight_of
from subp.pruning.selection import Place, all_places
from subp.pruning.settings import Settings
from subp_contract.errors import UserError, require


def find_budget(
    model: nn.Module,
    places: dict[str, Place],
    candidates: dict[str, int],
    settings: Settings,
    input_shape: Sequence[int] | None,
) -> Budget | None:
    """What the network may cost; None where every layer simply gets the sparsity that is given.

    places, candidates:  of each layer to prune, by name: its weight, and how many blocks are ranked together
    input_shape:         of one input, to count multiply-accumulates with
    Raises UserError for targets that cannot be met.
    """
    if settings.sparsity is not None:
        if settings.allocation == "equal":
            return None
        shares = [Share(weight_of(*place).numel(), candidates[name]) for name, place in places.items()]
        total = sum(share.cost for share in shares)
        return Budget(total - settings.sparsity * total, shares, 0, "weights of the pruned layers")
    everywhere = all_places(model)
    if settings.target_weights is not None:
        target, unit = settings.target_weights, "weights"
        costs = {name: weight_of(*place).numel() for name, place in everywhere.items()}
    else:
        if input_shape is None:
            raise UserError("target_macs needs an input_shape, such as (3, 224, 224), to count with")
        assert settings.target_macs is not None  # one of the three is given
        costs, target, unit = count_macs(model, everywhere, input_shape), settings.target_macs, "multiply-accumulates"
    require(target > 0, f"a target of {target} {unit} is not above 0")
    shares = [Share(costs.get(name, 0), candidates[name]) for name in places]
    total = sum(costs.values())
    limit = target * total if target <= 1 else target
    return Budget(limit, shares, total - sum(share.cost for share in shares), unit)


def find_sparsities(
    places: dict[str, Place], units: dict[str, tuple[int, ...]], settings: Settings, budget: Budget | None
) -> dict[str, float]:
    """Layer's name -> the fraction of its blocks that is pruned in the end, in [0, 1).

    places, units:  of each layer to prune, by name: its weight, not masked yet, and its mask's shape
    """
    if budget is None:
        assert settings.sparsity is not None
        return dict.fromkeys(places, settings.sparsity)
    if settings.allocation == "equal":
        # That of the layer that takes the last step: the others, in whole blocks, are less than a block below it.
        return dict.fromkeys(places, max(budget.sparsities(allocation.equal(len(places)))))
    weights = [weight_of(*place).detach() for place in places.values()]
    if settings.allocation == "erk":
        shared = allocation.erk([weight.shape for weight in weights])
    else:
        energies = (
            unit_sums(weight.cpu().double().square(), unit)
            for weight, unit in zip(weights, units.values(), strict=True)
        )
        shared = allocation.ranked_together([allocation.lamp(of_layer) for of_layer in energies])
    return dict(zip(places, budget.sparsities(shared), strict=True))
