"""Finds the operators of an exported graph that are computed in 8 bits.

A site is an operator with all that runs on its result before that is stored: a convolution with its batch norm, the
residual added to it and an activation. Its inputs are values in 8 bits, and so is its result, where some other site
reads it; everything between is in float32, to be rounded once.

What has no multiplication by weights is a site only where its result is wanted in 8 bits: a sum that a layer norm
reads, or that the user gets, stays in float32.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import fx

aten = torch.ops.aten

LAYERS = {aten.conv2d.default, aten.conv2d.padding, aten.linear.default}
NORMS = {aten.batch_norm.default}
SUMS = {aten.add.Tensor, aten.add_.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor}
AVERAGES = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim, aten.mean.default}
ACTIVATIONS = {
    getattr(aten, name).default
    for stem in ("relu", "relu6", "hardtanh", "clamp", "hardswish", "silu", "sigmoid", "hardsigmoid", "leaky_relu")
    for name in (stem, f"{stem}_")
    if hasattr(aten, name)
} | {aten.elu.default, aten.gelu.default, aten.mish.default, aten.tanh.default}
# Of one tensor, whose numbers they move or drop: their result has its scale.
MOVES = {
    aten.max_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.narrow.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.channel_shuffle.default,
    aten.upsample_nearest2d.vec,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten.alias.default,
    aten.detach.default,
}
PADDINGS = {aten.pad.default: 3, aten.constant_pad_nd.default: 2}  # operator -> where its value stands
SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes}
CONCATENATIONS = {aten.cat.default, aten.concat.default, aten.concatenate.default}


class Kind(Enum):
    """What decides on a site, and on its result's scale."""

    LAYER = auto()  # multiplies by weights: always a site
    COMPUTED = auto()  # a result of a range of its own
    MOVED = auto()  # the inputs' numbers: one scale for all of them and the result


@dataclass(frozen=True)
class Edge:
    """A value as an operator reads it."""

    value: fx.Node
    reader: fx.Node


@dataclass(frozen=True, eq=False)
class Site:
    """Operators that are computed together."""

    kind: Kind
    nodes: tuple[fx.Node, ...]  # in order
    inputs: tuple[Edge, ...]  # the values that come in 8 bits
    results: tuple[fx.Node, ...]  # several of a split
    weight: fx.Node | None = None

    @property
    def head(self) -> fx.Node:
        """The operator that the site begins with."""
        return self.nodes[0]


@dataclass(frozen=True)
class Choice:
    """A site that is computed in 8 bits."""

    site: Site
    stored: bool  # whether its result is in 8 bits too: somebody reads it so


def chosen(graph: fx.Graph, wide: Collection[str] = ()) -> list[Choice]:
    """The sites that are computed in 8 bits, in the graph's order. `wide`: names of the heads of sites that are not."""
    sites = [site for site in found(graph) if site.head.name not in wide]
    readers: dict[fx.Node, list[Site]] = {}
    for site in sites:
        for edge in site.inputs:
            readers.setdefault(edge.value, []).append(site)
    taken: dict[Site, bool] = {}  # site -> whether its result is stored in 8 bits
    for site in reversed(sites):  # readers come before what they read
        stored = any(reader in taken for result in site.results for reader in readers.get(result, ()))
        if stored or site.kind is Kind.LAYER:
            taken[site] = stored
    return [Choice(site, taken[site]) for site in sites if site in taken]


def found(graph: fx.Graph) -> Iterator[Site]:
    """All that may be sites, by their last operators' order."""
    computed = computed_nodes(graph)
    place = {node: number for number, node in enumerate(graph.nodes)}
    sites, within = [], set()
    for node in reversed(graph.nodes):  # of two layers that are added, the later one takes the sum
        if node.target in LAYERS and (site := layer(node, computed, place)):
            sites.append(site)
            within.update(site.nodes)
    for node in graph.nodes:
        if node not in within and node.op == "call_function" and (site := other(node, computed, within)):
            sites.append(site)
            within.update(site.nodes)
    yield from sorted(sites, key=lambda site: place[site.nodes[-1]])


def computed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on the network's inputs and hold float32."""
    depending: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(each in depending for each in node.all_input_nodes):
            depending.add(node)
    return {node for node in depending if is_float32(node)}


def is_float32(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of float32, or a sequence of them."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return bool(values) and all(isinstance(each, torch.Tensor) and each.dtype == torch.float32 for each in values)


def layer(node: fx.Node, computed: set[fx.Node], place: dict[fx.Node, int]) -> Site | None:
    """A convolution or matrix product by a weight of the network's own: with its batch norm, what is added to that, and
    an activation.
    """
    x, weight = node.args[:2]
    if x not in computed or not isinstance(weight, fx.Node) or weight in computed:
        return None
    inputs, nodes = [Edge(x, node)], [node]
    if (norm := only_reader(nodes[-1], NORMS)) is not None:
        nodes.append(norm)
    if (total := only_reader(nodes[-1], SUMS)) is not None:
        others = [each for each in tensors(total, computed) if each is not nodes[-1]]
        if len(others) == 1 and same_shape(others[0], total) and place[others[0]] < place[node]:
            nodes.append(total)
            inputs.append(Edge(others[0], total))
    return finished(Kind.LAYER, nodes, inputs, weight)


def other(node: fx.Node, computed: set[fx.Node], within: set[fx.Node]) -> Site | None:
    """What is not of a layer. In `within`: the nodes of sites already found."""
    if node not in computed:
        return None
    if node.target in SUMS | PRODUCTS:
        operands = tensors(node, computed)
        return finished(Kind.COMPUTED, [node], [Edge(each, node) for each in operands]) if operands else None
    x = node.args[0] if node.args else None
    if node.target in CONCATENATIONS and isinstance(x, (list, tuple)):
        every = all(each in computed for each in x)
        edges = tuple(Edge(each, node) for each in dict.fromkeys(x))
        return Site(Kind.MOVED, (node,), edges, (node,)) if every else None
    if x not in computed:
        return None
    edge = Edge(x, node)
    if node.target in NORMS | AVERAGES | ACTIVATIONS:
        return finished(Kind.COMPUTED, [node], [edge])
    if node.target in MOVES or (node.target in PADDINGS and pads_with_zero(node)):
        return Site(Kind.MOVED, (node,), (edge,), (node,))
    if node.target in SPLITS:
        parts = tuple(node.users)
        return Site(Kind.MOVED, (node, *parts), (edge,), parts) if not within.intersection(parts) else None
    return None


def finished(kind: Kind, nodes: list[fx.Node], inputs: Sequence[Edge], weight: fx.Node | None = None) -> Site:
    """The site of these nodes, and of the activation that follows."""
    if nodes[-1].target not in ACTIVATIONS and (activation := only_reader(nodes[-1], ACTIVATIONS)) is not None:
        nodes.append(activation)
    return Site(kind, tuple(nodes), tuple(inputs), (nodes[-1],), weight)


def only_reader(node: fx.Node, operators: set) -> fx.Node | None:
    """The node that alone reads this one, as its first operand or in a sum, if it is one of these operators."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].target in operators else None


def tensors(node: fx.Node, computed: set[fx.Node]) -> list[fx.Node]:
    """The operands of a sum or product; none where one of them is a number, a constant, or not of float32, or where
    the sum is of multiples.
    """
    operands = list(dict.fromkeys(node.args))
    return operands if not node.kwargs and all(each in computed for each in operands) else []


def same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Whether two values have one shape."""
    return tuple(one.meta["val"].shape) == tuple(other.meta["val"].shape)


def pads_with_zero(node: fx.Node) -> bool:
    """Whether a margin is of zeros, which every scale has exactly."""
    at = PADDINGS[node.target]
    value = node.args[at] if len(node.args) > at else node.kwargs.get("value")
    mode = node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
    return mode == "constant" and not value
