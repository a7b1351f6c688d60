"""The methods by name: how each goes from a weight to a mask, and what it defaults to.

A method's formula stands in its own file, on plain arguments; here it is joined to what `Sparsifier` knows at a step.
Masks have the shape of the unit that is kept or pruned as a whole, and broadcast to the weight [O, I, *kernel] as
`subp.blocks.expand_mask` says.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from subp.pruning.block_masks import to_blocks
from subp.pruning.methods import (
    filters,
    hrbp,
    magnitude,
    nonuniform,
    one_by_n,
    random_uniform,
    sr_ste,
    subp,
)

UNITS: dict[str, Callable[[torch.Size, int], tuple[int, ...]]] = {  # the shape of a mask on a weight's shape
    "block": lambda shape, n: (shape[0] // n, shape[1]),
    "kernel": lambda shape, n: (shape[0], shape[1]),
    "filter": lambda shape, n: (shape[0], 1),
    "weight": lambda shape, n: tuple(shape),
}


@dataclass(frozen=True)
class Step:
    """What a method knows at an epoch's step of a layer, besides the weight.

    score:  blocks [G, I, elements] -> scores [G, I], by the criterion chosen
    rate:   p_t, climbing to `sparsity`
    active: the units kept until now, where these rank before the others
    order:  for a method that regroups, the outputs [O] in an order of which each n consecutive ones are a group
    """

    n: int
    m: int
    sparsity: float
    rate: float
    tau: float
    score: Callable[[Tensor], Tensor]
    generator: Generator
    active: Tensor | None = None
    order: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """How a method chooses masks.

    choose:         (weight, Step) -> mask of the unit's shape; what the weight holds where it is pruned is the
                    scoring's
    unit:           a name in UNITS
    uses_n, uses_m: n must divide a layer's outputs, m its inputs
    ranks_layer:    the units of a whole layer are ranked together, not those of a group of outputs
    settles:        the mask of epoch `end` stays; else the weights may still swap what is pruned
    one_shot:       `start` and `end` default to epoch 0: pruned at once
    regroups:       groups of outputs are chosen at each step, and folded into the order of the filters in the end
    every_forward:  the mask follows the weights at every forward pass in training, not only once an epoch
    criteria:       the criteria to choose from, the default first; none where the method has no scores
    scorings:       what the scores of pruned units are, the default first; see subp.sparsifier
    soft:           whether gradients reach pruned weights by default
    """

    choose: Callable[[Tensor, Step], Tensor]
    unit: str = "block"
    uses_n: bool = True
    uses_m: bool = False
    ranks_layer: bool = False
    settles: bool = False
    one_shot: bool = False
    regroups: bool = False
    every_forward: bool = False
    criteria: tuple[str, ...] = ()
    scorings: tuple[str, ...] = ("weight", "masked")
    soft: bool = True

    def mask_shape(self, weight: Tensor, n: int) -> tuple[int, ...]:
        """The shape of a mask on this weight."""
        return UNITS[self.unit](weight.shape, n)

    def ranked(self, weight: Tensor, n: int, m: int) -> int:
        """How many units of the weight are ranked together."""
        shape = self.mask_shape(weight, n)
        return m if self.uses_m else math.prod(shape) if self.ranks_layer else math.prod(shape[1:])


def _subp(weight: Tensor, at: Step) -> Tensor:
    return subp.step(at.score(to_blocks(weight, at.n)), at.sparsity, at.rate, at.tau, at.generator, at.active)


def _nonuniform(weight: Tensor, at: Step) -> Tensor:
    return nonuniform.step(at.score(to_blocks(weight, at.n)), at.sparsity, at.rate, at.tau, at.generator, at.active)


def _random(weight: Tensor, at: Step) -> Tensor:
    return random_uniform.step(weight.shape[0] // at.n, weight.shape[1], at.rate, at.generator)


def _magnitude(weight: Tensor, at: Step) -> Tensor:
    return magnitude.step(weight, at.rate)


def _filters(weight: Tensor, at: Step) -> Tensor:
    return filters.step(at.score(weight.flatten(1).unsqueeze(0)), at.rate)  # the filters as the blocks of one group


def _sr_ste(weight: Tensor, at: Step) -> Tensor:
    return sr_ste.step(weight, sr_ste.kept_of(at.m, at.sparsity), at.m)


def _one_by_n(weight: Tensor, at: Step, uniform: bool) -> Tensor:
    return one_by_n.step(at.score(to_blocks(weight, at.n)), at.rate, uniform)


def _hrbp(weight: Tensor, at: Step, patterns: bool) -> Tensor:
    return hrbp.step(weight, at.order, at.n, at.rate, patterns)


_REGROWS = {"scorings": ("masked", "active", "weight")}
_ONE_SHOT = {"settles": True, "one_shot": True, "soft": False}
METHODS: dict[str, Method] = {
    "subp": Method(_subp, criteria=("bpar", "l1", "l2"), **_REGROWS),
    "nonuniform": Method(_nonuniform, ranks_layer=True, criteria=("l1", "l2"), **_REGROWS),
    "random": Method(_random, **_ONE_SHOT),
    "magnitude": Method(_magnitude, unit="weight", uses_n=False, ranks_layer=True, settles=True, soft=False),
    "filter": Method(_filters, unit="filter", uses_n=False, ranks_layer=True, criteria=("l2", "l1", "bpar")),
    "one-by-n": Method(partial(_one_by_n, uniform=False), ranks_layer=True, criteria=("l1", "l2"), **_ONE_SHOT),
    "one-by-n-uniform": Method(partial(_one_by_n, uniform=True), criteria=("l1", "l2", "bpar"), **_ONE_SHOT),
    "hrbp": Method(partial(_hrbp, patterns=False), unit="kernel", regroups=True, settles=True),
    "hrbp++": Method(partial(_hrbp, patterns=True), unit="weight", regroups=True, settles=True),
    "sr-ste": Method(_sr_ste, unit="weight", uses_n=False, uses_m=True, every_forward=True, one_shot=True),
}
