"""Unstructured magnitude pruning, gradual (Zhu & Gupta, arXiv 1710.01878): the smallest weights of a layer are zero.

At epoch t the floor(p_t * numel) weights of least magnitude are pruned, p_t climbing along the paper's cubic
(`cubic-ease-out`, the default schedule) once an epoch instead of every few hundred steps. Pruned weights get no
gradient, but are ranked with the others by the value they have left, so that one may come back. What no pattern costs
in accuracy; a CPU gains next to nothing from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.ranking import keep_best

if TYPE_CHECKING:
    from torch import Tensor


def step(weight: Tensor, pruning_rate: float) -> Tensor:
    """The mask of one epoch, bool, of the weight's shape."""
    return keep_best(weight.float().abs().reshape(1, -1), pruning_rate).reshape(weight.shape)


def _choose(weight: Tensor, at: MethodStep) -> Tensor:
    return step(weight, at.rate)


METHOD = Method(
    name="magnitude",
    help="single weights, gradually",
    prunes="single weights",
    masks="the floor(p_t numel) smallest of the layer",
    source="Zhu & Gupta, arXiv 1710.01878",
    choose=_choose,
    unit="weight",
    uses_n=False,
    ranks_layer=True,
    settles=True,
    soft=False,
)
