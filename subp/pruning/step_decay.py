"""SR-STE's pull on pruned weights, `decay` * weight (arXiv 2102.04010), added to their gradients once a step of the
optimizer, not in every backward pass.

A hook before the step adds it. Where the step gets a closure, which makes the gradients inside the step, it is added
whenever the closure has run (LBFGS, SAM, Lightning). Where a fused optimizer divides gradients by a loss's scale in the
step itself, it is added times that scale. A gradient to which it was added and which has not changed since gets it no
second time, by whatever hooks, of however many optimizers that hold the weight (SAM's and the one inside it).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subp.pruning.block_masks import expand_mask
from subp.pruning.masking import Mask
from subp_contract.errors import require

_MARK = "decayed_at"  # of a gradient: its version when it last got the pull


def add_in_steps(
    optimizer: torch.optim.Optimizer,
    masked: Sequence[tuple[nn.Parameter, Mask]],
    decay: float,
    active: Callable[[], bool],
) -> None:
    """From here on the optimizer's steps add the pull to the gradients of those trained weights that it holds, where
    they have one, and backward passes through their masks no longer do. Raises UserError if it holds none.

    active:  whether it is to be added still; asked at every step
    """
    parameters = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    held = [(weight, mask) for weight, mask in masked if id(weight) in parameters]
    require(bool(held), "the optimizer holds none of the pruned weights: give it the parameters of this model")
    for _, mask in held:
        mask.decay = 0.0

    def add() -> None:
        if active():
            add_decay(held, decay, getattr(optimizer, "grad_scale", None))

    def before_step(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not any(callable(value) for value in (*args[1:], *kwargs.values())):
            add()
            return None
        given = (*args[:1], *(_followed(value, add) for value in args[1:]))
        return given, {name: _followed(value, add) for name, value in kwargs.items()}

    optimizer.register_step_pre_hook(before_step)


def _followed(value: Any, add: Callable[[], None]) -> Any:
    """A closure that calls `add` after it has run; anything else as it is."""
    if not callable(value):
        return value

    def closure(*args: Any, **kwargs: Any) -> Any:
        result = value(*args, **kwargs)
        add()
        return result

    return closure


@torch.no_grad()
def add_decay(masked: Sequence[tuple[nn.Parameter, Mask]], decay: float, scale: Tensor | None = None) -> None:
    """Adds `decay` * weight, times `scale` where the gradients are scaled, to those of pruned weights that have not
    got it yet.
    """
    due = [(weight, gradient, mask.mask) for weight, mask in masked if (gradient := _without_pull(weight)) is not None]
    for weight, gradient, mask in due:
        pull = torch.where(expand_mask(mask, weight.shape), 0, weight)
        gradient.add_(pull if scale is None else pull * scale.to(pull.device), alpha=decay)
    for _, gradient, _ in due:  # last: gradients that are parts of one tensor share their version
        setattr(gradient, _MARK, gradient._version)


def _without_pull(weight: nn.Parameter) -> Tensor | None:
    """The weight's gradient, if it has one that has not got the pull."""
    gradient = weight.grad
    return None if gradient is None or getattr(gradient, _MARK, None) == gradient._version else gradient
