"""What a pruning method is: how it chooses masks, what it defaults to, its hyperparameters, and what it says of itself.

Each file of the folders here has a pure step on plain tensors and, at its end, the `METHOD` that joins the step to what
`Sparsifier` knows. Importing one must not import PyTorch: `subp train --help` reads the descriptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from subp.pruning.hyperparameters import Hyperparameters, hyperparameter

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

# The shape of a mask on a weight's shape [O, I, *kernel] in blocks of n, by the unit that is kept or pruned as a whole.
# It broadcasts to the weight as `block_masks.expand_mask` says.
UNITS: dict[str, Callable[[Size, int], tuple[int, ...]]] = {
    "block": lambda shape, n: (shape[0] // n, shape[1]),
    "kernel": lambda shape, n: (shape[0], shape[1]),
    "filter": lambda shape, n: (shape[0], 1),
    "weight": lambda shape, n: tuple(shape),
}


@dataclass(frozen=True)
class SoftTraining(Hyperparameters):
    """Of training in which gradients reach pruned weights, whatever the method."""

    decay: float = hyperparameter(
        2e-4,
        "Share of each pruned weight that is added to its straight-through gradient (SR-STE).",
        lambda decay: 0 <= decay < math.inf,
        "it is a number of at least 0",
    )


@dataclass(frozen=True)
class MethodStep:
    """What a method knows at an epoch's step of a layer, besides the weight [O, I, *kernel].

    n:         outputs in a block of this layer
    sparsity:  p, pruned in the end
    rate:      p_t, climbing to `sparsity`
    epoch:     t
    span:      the epochs in which the schedule of p_t begins and ends
    score:     blocks [G, I, elements] -> scores [G, I], by the criterion chosen
    generator: for draws; on the CPU whatever the device of the weight
    options:   the method's own hyperparameters
    active:    the mask until now, where the units that it keeps rank before the others
    multiple:  every group keeps a multiple of so many units in the end, if it has as many; by `sparsity` it does where
               groups are ranked one by one
    order:     for a method that regroups, the outputs [O] in an order of which each n consecutive ones are a group
    gradient:  for a method that needs gradients, of the weight's shape: the mean, since the step before, of the loss's
               gradient by the masked weight, so of pruned weights too; 0 before the first backward pass
    """

    n: int
    sparsity: float
    rate: float
    score: Callable[[Tensor], Tensor]
    generator: Generator
    options: Any
    epoch: int = 0
    span: tuple[int, int] = (0, 0)
    active: Tensor | None = None
    multiple: int = 1
    order: Tensor | None = None
    gradient: Tensor | None = None


def _any_sparsity(sparsity: float | None, allocation: str, options: Any) -> None:
    """Every sparsity and allocation will do."""


class Choose(Protocol):
    """(weight, MethodStep) -> mask of the method's unit, bool."""

    def __call__(self, weight: Tensor, at: MethodStep) -> Tensor: ...


def followed(follow: Choose, at: MethodStep, weight: Tensor, mask: Tensor) -> Tensor:
    """The mask of a weight as it is now, from the mask until now."""
    return follow(weight, replace(at, active=mask))


@dataclass(frozen=True)
class Method:
    """How a method chooses masks.

    name:            for `Sparsifier(method=...)` and `--method`
    help:            a few words for the command line
    prunes, masks, source:  cells of the table in docs/methods.md: what is pruned, the mask at epoch t, whose method
    choose:          (weight, MethodStep) -> mask of the unit's shape, bool; what the weight holds where it is pruned is
                     the scoring's
    options:         the class of its own hyperparameters
    unit:            a name in UNITS
    uses_n:          n must divide a layer's outputs
    inputs_of:       hyperparameters -> the number that must divide a layer's inputs, so many of which are ranked
                     together; None: any does
    check:           (sparsity or None, allocation, hyperparameters) -> None; raises UserError where they do not fit
    ranks_layer:     the units of a whole layer are ranked together, not those of a group of outputs
    rounds_groups:   of such a method: it heeds `MethodStep.multiple` itself
    settles:         the mask of epoch `end` stays; else the weights may still swap what is pruned
    one_shot:        `start` and `end` default to epoch 0: pruned at once
    kernels:         for a method whose groups of outputs are chosen at each step, and folded into the order of the
                     filters in the end: (weight, p_t) -> kernel mask [O, I]; outputs with much in common in it become
                     a group. None: consecutive outputs are the groups
    follow:          the mask follows the weights at every forward pass in training, by this (`active` is the mask until
                     then, the rest of MethodStep as before epoch 0), not only once an epoch. None: it stays
    shrinks:         kept blocks are shrunk by the norms of pruned ones, see soft_threshold.py
    needs_gradients: gradients are averaged between steps, for `MethodStep.gradient`
    returns_zero:    units that were pruned and come back begin at zero, whatever they were before
    criteria:        the criteria to choose from, the default first; none where the method has no scores
    scorings:        what the scores of pruned units are, the default first; see subp.pruning.scoring
    soft:            whether gradients reach pruned weights by default
    """

    name: str
    help: str
    prunes: str
    masks: str
    choose: Choose
    source: str = "baseline"
    options: type[Hyperparameters] = Hyperparameters
    unit: str = "block"
    uses_n: bool = True
    inputs_of: Callable[[Any], int] | None = None
    check: Callable[[float | None, str, Any], None] = _any_sparsity
    ranks_layer: bool = False
    rounds_groups: bool = False
    settles: bool = False
    one_shot: bool = False
    kernels: Callable[[Tensor, float], Tensor] | None = None
    follow: Choose | None = None
    shrinks: bool = False
    needs_gradients: bool = False
    returns_zero: bool = False
    criteria: tuple[str, ...] = ()
    scorings: tuple[str, ...] = ("weight", "masked")
    soft: bool = True

    @property
    def regroups(self) -> bool:
        """Whether groups of outputs are chosen at each step."""
        return self.kernels is not None

    @property
    def keeps_multiples(self) -> bool:
        """Whether each group can be made to keep a multiple of some number of whole channels."""
        return self.uses_n and self.unit in ("block", "kernel") and (self.rounds_groups or not self.ranks_layer)

    def mask_shape(self, weight: Tensor, n: int) -> tuple[int, ...]:
        """The shape of a mask on this weight."""
        return UNITS[self.unit](weight.shape, n)

    def ranked_together(self, weight: Tensor, n: int, options: Hyperparameters) -> int:
        """How many units of the weight compete with each other."""
        if self.inputs_of:
            return self.inputs_of(options)
        shape = self.mask_shape(weight, n)
        return math.prod(shape) if self.ranks_layer else math.prod(shape[1:])
