"""Filter rearrangement: other orders of a network's channels, folded into its weights, that leave its function as it
is.

    channels = rearrange.find(model, example)                 # which sets of channels may change places
    orders = rearrange.by_l1_norm(channels, model)            # an order for each set, by a method
    rearrange.permute(channels, orders, model)                # in place: every parameter and buffer
    for row in rearrange.report(channels): print(row)         # which layers are rearranged, and why not the others

Blocks of N consecutive output channels then hold channels that a method wants together: in 1xN (arXiv 2105.14713)
strong filters share blocks; in assignment.py those that keep the same inputs. The order is in the weights, and so is
what reads them: nothing is permuted when the network runs.

A *class* is a set of labels (channel_trace.py) that can only move together: output 5 of a convolution, its batch norm's
parameters number 5, and through a residual add output 5 of every other convolution of that stage. A class that layers
make as an output is a *channel*. A *set* is channels that may take each other's places. A layer's outputs may lie in
several sets (groups of a grouped convolution; the two halves that ShuffleNet's chunk separates): each is ordered by
itself.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from subp.pruning.channels.channel_trace import FIXED, Trace, trace
from subp_contract.errors import UserError, require

_EXACT = 1e-9  # of the largest output, in double precision


@dataclass(frozen=True)
class ChannelSet:
    """Channels that may take each other's places: `channels` [size] class numbers, in the order they have now.

    rows: the weights that make them -> outputs [size, k] of the layer that are each of the channels (k = 1 as a rule)
    """

    channels: Tensor
    rows: dict[str, Tensor]


@dataclass(frozen=True)
class Channels:
    """What `find` found: labels of every parameter as classes, and the sets."""

    sets: list[ChannelSet]
    rows: dict[str, Tensor]  # weight -> classes [O] of its outputs
    columns: dict[str, Tensor]  # weight -> classes [I] of its inputs, all groups'
    groups: dict[str, int]  # weight -> groups of its convolution
    elements: dict[str, Tensor]  # other parameter or buffer -> classes of its elements
    reasons: dict[int, str]  # class -> why it stays where it is
    classes: int


@dataclass(frozen=True)
class LayerReport:
    """How many of a layer's outputs may change places, in sets of which sizes, and if not all of them, why."""

    weight: str
    outputs: int
    free: int
    sets: tuple[int, ...]
    reason: str | None


def find(model: nn.Module, example: Tensor) -> Channels:
    """The sets of channels of a model that may change places. `example`: an input [1, C, H, W], of which only the shape
    matters. The model is traced in eval mode, without masks (masking.py): before they are put on or after folding.
    """
    traced = trace(model, example)
    classes = _classes(traced)
    reasons: dict[int, str] = {}
    for labels, reason in traced.pins:
        for number in classes[labels].unique().tolist():
            reasons.setdefault(number, reason)
    reasons[int(classes[FIXED])] = "they are tied to data in a fixed order"
    rows = {name: classes[weight.rows] for name, weight in traced.weights.items()}
    kinds = _kinds(traced, classes)
    return Channels(
        _sets(rows, kinds, reasons),
        rows,
        {name: classes[weight.columns] for name, weight in traced.weights.items()},
        {name: weight.groups for name, weight in traced.weights.items()},
        {name: classes[labels] for name, labels in traced.elements.items()},
        reasons,
        len(kinds),
    )


def _classes(traced: Trace) -> Tensor:
    """Label -> class: the labels that are tied, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = torch.cat([torch.zeros(0, 2, dtype=torch.long), *traced.ties]).numpy()
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(traced.count, traced.count))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))


def _kinds(traced: Trace, classes: Tensor) -> Tensor:
    """Class -> kind: classes are of one kind, and may change places, if they lie in the same scopes, in each of them
    equally often. The outputs of a layer, its inputs, and every other parameter are scopes too.

    Begins with one kind of all classes; each scope then parts those of a kind that occur in it unequally often.
    """
    kinds = torch.zeros(int(classes.max()) + 1, dtype=torch.long)
    vectors = [
        *traced.scopes,
        *(w.rows for w in traced.weights.values()),
        *(w.columns for w in traced.weights.values()),
    ]
    seen = set()
    for labels in [*vectors, *(labels.flatten() for labels in traced.elements.values())]:
        members, counts = classes[labels].unique(return_counts=True)
        key = (members.numpy().tobytes(), counts.numpy().tobytes())
        if key not in seen:
            seen.add(key)
            kinds[members] = (
                torch.stack([kinds[members], counts], 1).unique(dim=0, return_inverse=True)[1] + kinds.max() + 1
            )
    return kinds


def _sets(rows: dict[str, Tensor], kinds: Tensor, reasons: dict[int, str]) -> list[ChannelSet]:
    """The sets, in the order of the layers that make them first; of each the channels in the order in which these
    layers make them. Channels are of one set if they are of one kind, and nothing pins them.
    """
    members: dict[int, list[int]] = {}
    for vector in rows.values():
        for number in vector.tolist():
            if number not in reasons:
                members.setdefault(int(kinds[number]), []).append(number)
    sets = []
    for numbers in members.values():
        channels = torch.tensor(list(dict.fromkeys(numbers)))
        if len(channels) > 1:
            makers = {name: vector for name, vector in rows.items() if channels[0] in vector}
            sets.append(ChannelSet(channels, {name: _slots(vector, channels) for name, vector in makers.items()}))
    return sets


def _slots(vector: Tensor, channels: Tensor) -> Tensor:
    """Positions [channels, k] of each of the channels in a vector of classes; every one occurs there k times."""
    order = vector.argsort(stable=True)
    start, end = (torch.searchsorted(vector[order], channels, right=right) for right in (False, True))
    return order[start.unsqueeze(1) + torch.arange(int(end[0] - start[0]))]


def whole_blocks(slots: Tensor, n: int) -> bool:
    """Whether a set's outputs [size, k] of a layer are one a channel, and each n of them a block."""
    if slots.shape[1] > 1 or len(slots) % n:
        return False
    blocks = slots.reshape(-1, n)
    return not bool((blocks[:, 0] % n).any() or (blocks != blocks[:, :1] + torch.arange(n)).any())


def permute(channels: Channels, orders: list[Tensor], model: nn.Module) -> None:
    """Folds an order for each set into the model, in place: channel orders[set][i] takes place i of the set's."""
    tensors = tensors_of(model)
    with torch.no_grad():
        for name, tensor in permuted(channels, orders, tensors).items():
            tensors[name].copy_(tensor)


def permuted(channels: Channels, orders: list[Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for tensors by name of a parameter or buffer and shaped as it: a state dict's, an optimizer's momenta.
    Those of `tensors` that no set touches are left out.
    """
    moved = _moved(channels, orders)
    result = {}
    for name, tensor in tensors.items():
        if name in channels.rows:
            rows, columns = (_sources(side[name], moved) for side in (channels.rows, channels.columns))
            result[name] = _permuted_weight(tensor, rows, columns, channels.groups[name])
        elif name in channels.elements:
            sources = _sources(channels.elements[name].flatten(), moved)
            result[name] = tensor.flatten()[sources.to(tensor.device)].reshape(tensor.shape)
    return result


def _moved(channels: Channels, orders: list[Tensor]) -> Tensor:
    """Class -> the class that takes its place."""
    moved = torch.arange(channels.classes)
    for each, order in zip(channels.sets, orders, strict=True):
        complete = torch.equal(order.sort().values, torch.arange(len(each.channels)))
        require(complete, "an order of a set of channels names each of them once")
        moved[each.channels] = each.channels[order]
    return moved


def _permuted_weight(weight: Tensor, rows: Tensor, columns: Tensor, groups: int) -> Tensor:
    """weight [O, I / groups, ...] with its outputs and inputs taken from `rows` [O] and `columns` [I]; the inputs of a
    convolution's group stay within it, except where it is depthwise and group and channel are one.
    """
    taken = weight[rows.to(weight.device)]
    if weight.shape[1] == 1 and groups > 1:
        return taken
    inputs = columns.reshape(groups, 1, -1) - weight.shape[1] * torch.arange(groups).reshape(groups, 1, 1)
    inputs = inputs.expand(-1, len(weight) // groups, -1).reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return taken.gather(1, inputs.expand(weight.shape).to(weight.device))


def _sources(vector: Tensor, moved: Tensor) -> Tensor:
    """For each position of a vector of classes the position that its data comes from: the i-th occurrence of a class
    takes that of the i-th occurrence of moved[class], the class that takes its place.
    """
    order = vector.argsort(stable=True)
    ordered = vector[order]
    occurrence = torch.arange(len(vector)) - torch.searchsorted(ordered, ordered)
    sources = torch.empty_like(order)
    sources[order] = order[torch.searchsorted(ordered, moved[ordered]) + occurrence]
    return sources


def example_input(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """One input [1, *input_shape] of standard normal numbers, the same every time, as the model's first parameter is
    kept.
    """
    like = next(model.parameters())
    return torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def by_l1_norm(channels: Channels, model: nn.Module, weights: Collection[str] | None = None) -> list[Tensor]:
    """Orders by falling L1 norm of the filters (arXiv 2105.14713, which sorts where one layer alone makes the
    channels).

    A set that several layers make is sorted by the sum of their filters' norms, each layer's in units of its mean.
    weights: names of the weights that count, such as those to be pruned; None: all. A set that none of them makes
    stays.
    """
    tensors, orders = tensors_of(model), []
    for each in channels.sets:
        total = torch.zeros(len(each.channels), dtype=torch.double)
        for name, rows in each.rows.items():
            if weights is None or name in weights:
                norms = tensors[name].detach().flatten(1).double().abs().sum(1).cpu()[rows].sum(1)
                total += norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny)
        orders.append(total.argsort(descending=True, stable=True))
    return orders


def layer_orders(channels: Channels, orders: list[Tensor]) -> dict[str, Tensor]:
    """Weight's name -> for each of its outputs [O] the one that takes its place."""
    moved = _moved(channels, orders)
    return {name: _sources(vector, moved) for name, vector in channels.rows.items()}


def report(channels: Channels) -> list[LayerReport]:
    """A row for each convolution and linear layer, in the order of the network."""
    rows = []
    for name, vector in channels.rows.items():
        sizes = tuple(len(each.channels) for each in channels.sets if name in each.rows)
        free = sum(each.rows[name].numel() for each in channels.sets if name in each.rows)
        reason = None
        if free < len(vector):
            reason = next(
                (channels.reasons[n] for n in vector.tolist() if n in channels.reasons), "each has a scope of its own"
            )
        rows.append(LayerReport(name, len(vector), free, sizes, reason))
    return rows


def rearrange(
    model: nn.Module, example: Tensor, orders: Callable[[Channels, nn.Module], list[Tensor]] = by_l1_norm
) -> list[LayerReport]:
    """Finds, orders, folds in place and checks: in double precision the outputs for `example` must be what they were.

    Raises UserError, the model as it was, if they are not.
    """
    channels = find(model, example)
    chosen = orders(channels, model)
    changed = copy.deepcopy(model)
    permute(channels, chosen, changed)
    before, after = (_outputs(each, example) for each in (model, changed))
    difference = max(
        (a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
        for a, b in zip(before, after, strict=True)
    )
    if not difference <= _EXACT:
        raise UserError(
            f"{type(model).__name__} is not rearranged: its outputs would change, by {difference:.1e} of the largest"
        )
    permute(channels, chosen, model)
    return report(channels)


@torch.no_grad()
def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    outputs = torch.utils._pytree.tree_leaves(copy.deepcopy(model).double().eval()(example.double()))
    return [each for each in outputs if isinstance(each, Tensor)]
