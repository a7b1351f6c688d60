"""Each layer's sparsity, from what is asked of the whole network and how it is shared out among the layers.

    planned = find_plan(model, settings, input_shape)                              # of a latency alone
    budget = planned or find_budget(model, places, ranked, settings, input_shape)  # raises what cannot be
    sparsities = find_sparsities(places, units, settings, budget)                  # name -> p_l

Two steps, as the first looks at shapes alone; in the second, "global" looks at the weights too, which `rearrange` may
have moved in between.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from subp.pruning.block_masks import unit_sums
from subp.pruning.budget import allocation
from subp.pruning.budget.budgets import Budget, Share
from subp.pruning.budget.macs import count_macs
from subp.pruning.hyperparameters import Hyperparameters
from subp.pruning.masking import weight_of
from subp.pruning.methods import Method
from subp.pruning.selection import Place, all_places
from subp.pruning.settings import Settings
from subp_contract.errors import UserError, require

PLANNER = "subp.deployment.latency"  # above here, and of TVM: loaded where a latency is asked for


class Planned(NamedTuple):
    """What is known as it is, by layer: sparsity, and outputs in a block."""

    sparsities: dict[str, float]
    sizes: dict[str, int]


class Ranked(NamedTuple):
    """How many blocks of a layer are ranked together, and of how many groups."""

    candidates: int
    groups: int

    def share(self, cost: int, multiple: int) -> Share:
        """The layer's part of a budget; a group with fewer blocks than the multiple may keep any number."""
        return Share(cost, self.candidates, self.groups, multiple if self.candidates // self.groups >= multiple else 1)


def ranks(
    method: Method, options: Hyperparameters, weights: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[str, Ranked]:
    """Of each layer by name, from its weight and the outputs in its blocks."""
    return {
        name: Ranked(
            method.ranked_together(weight, sizes[name], options),
            method.mask_shape(weight, sizes[name])[0] if method.ranks_layer else 1,
        )
        for name, weight in weights.items()
    }


def find_plan(model: nn.Module, settings: Settings, input_shape: Sequence[int] | None) -> Planned | None:
    """What each layer gets of a `target_latency`; None without one. Raises UserError for one that cannot be met."""
    if settings.target_latency is None:
        return None
    if input_shape is None:
        raise UserError("target_latency needs an input_shape, such as (3, 224, 224), to compile the model for")
    return Planned(*importlib.import_module(PLANNER).planned(model, settings, input_shape))


def find_budget(
    model: nn.Module,
    places: dict[str, Place],
    ranked: dict[str, Ranked],
    settings: Settings,
    input_shape: Sequence[int] | None,
) -> Budget | None:
    """What the network may cost; None where every layer simply gets the sparsity given.

    places, ranked:  of each layer to prune, by name
    input_shape:     of one input, to count multiply-accumulates with
    Raises UserError for targets that cannot be met.
    """
    multiple = settings.multiple
    if settings.sparsity is not None:
        if settings.allocation == "equal":
            return _implied_budget(model, places, ranked, settings, input_shape) if multiple > 1 else None
        shares = [ranked[name].share(weight_of(*place).numel(), multiple) for name, place in places.items()]
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
    total = sum(costs.values())
    require(
        target <= max(total, 1), f"a target of {target:,.0f} {unit}: the whole network has {total:,}, ask for fewer"
    )
    shares = [ranked[name].share(costs.get(name, 0), multiple) for name in places]
    limit = target * total if target <= 1 else target
    return Budget(limit, shares, total - sum(share.cost for share in shares), unit)


def _implied_budget(
    model: nn.Module,
    places: dict[str, Place],
    ranked: dict[str, Ranked],
    settings: Settings,
    input_shape: Sequence[int] | None,
) -> Budget:
    """What one sparsity for all layers costs before counts are rounded, or the least that multiples allow where that is
    more: in multiply-accumulates if there is an input to count them with, else in weights.
    """
    assert settings.sparsity is not None
    costs = {name: weight_of(*place).numel() for name, place in places.items()}
    if input_shape is not None:
        costs = count_macs(model, places, input_shape)
    plain, shares = (
        [ranked[name].share(costs.get(name, 0), multiple) for name in places] for multiple in (1, settings.multiple)
    )
    limit = max(sum(share.kept(settings.sparsity) for share in plain), sum(share.kept(1.0) for share in shares))
    return Budget(limit, shares, 0, "multiply-accumulates" if input_shape is not None else "weights")


def find_sparsities(
    places: dict[str, Place], units: dict[str, tuple[int, ...]], settings: Settings, budget: Budget | Planned | None
) -> dict[str, float]:
    """Layer's name -> the fraction of its blocks that is pruned in the end, in [0, 1).

    places, units:  of each layer to prune, by name: its weight, not masked yet, and its mask's shape
    """
    if isinstance(budget, Planned):
        return budget.sparsities
    if budget is None:
        assert settings.sparsity is not None
        return dict.fromkeys(places, settings.sparsity)
    multiple = settings.multiple > 1
    if settings.allocation == "equal" and not multiple:
        # That of the layer that takes the last step: the others, in whole blocks, are less than a block below it.
        return dict.fromkeys(places, max(budget.sparsities(allocation.equal(len(places)))))
    weights = [weight_of(*place).detach() for place in places.values()]
    if settings.allocation == "equal":
        shared = allocation.equal(len(places))
    elif settings.allocation == "erk":
        shared = allocation.erk([weight.shape for weight in weights])
    else:
        energies = (
            unit_sums(weight.cpu().double().square(), unit)
            for weight, unit in zip(weights, units.values(), strict=True)
        )
        shared = allocation.ranked_together([allocation.lamp(of_layer) for of_layer in energies])
    sparsities = budget.sparsities(shared)
    return dict(zip(places, budget.in_multiples(sparsities) if multiple else sparsities, strict=True))
