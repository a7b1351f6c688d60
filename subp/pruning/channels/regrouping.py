"""Groups of outputs that are learned: chosen anew at each step of a run, and at its end folded into the order of the
filters.

A group is n outputs of a layer that share a mask. Which outputs may come to stand side by side, `rearrange.py` knows;
layers that make the same channels are grouped alike. Where a set of channels does not fill whole blocks of n outputs
one after the other, or may not be moved at all, consecutive outputs stay the groups. Nothing is remembered from step to
step: the masks tell which outputs are a group.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from subp.pruning.channels import rearrange
from subp.pruning.channels.grouping import balanced_groups


class Regrouping:
    """The groups of n outputs of a model's layers; made before the masks are put on.

    names:        layer's name -> its weight's among the model's parameters
    input_shape:  of one input, such as (3, 224, 224), to trace the model with
    """

    def __init__(self, model: nn.Module, names: dict[str, str], n: int, input_shape: Sequence[int]) -> None:
        self.names, self.n = names, n
        self.channels = rearrange.find(model, rearrange.example_input(model, input_shape))

    def orders(self, kernels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> its outputs [O] in an order of which each n consecutive ones are a group: outputs with much in
        common in their kernel masks [O, I], which are given for every layer.
        """
        found = rearrange.layer_orders(self.channels, self._by_set(kernels, lambda rows: balanced_groups(rows, self.n)))
        return {layer: found.get(name, torch.arange(len(kernels[layer]))) for layer, name in self.names.items()}

    def fold(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        """Puts outputs of one mask [O, ...] side by side, in place, in a model whose masks are folded already."""
        orders = self._by_set(masks, lambda rows: rows.unique(dim=0, return_inverse=True)[1].argsort(stable=True))
        rearrange.permute(self.channels, orders, model)

    def _by_set(self, masks: dict[str, Tensor], order: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """For each set of channels, `order` of its rows of the masks, those of several layers side by side."""
        masks = {name: masks[layer] for layer, name in self.names.items()}
        orders = []
        for each in self.channels.sets:
            rows = [masks[name].flatten(1).cpu()[slots[:, 0]] for name, slots in each.rows.items() if name in masks]
            movable = rows and all(
                rearrange.whole_blocks(slots, self.n) for name, slots in each.rows.items() if name in masks
            )
            orders.append(order(torch.cat(rows, 1)) if movable else torch.arange(len(each.channels)))
        return orders
