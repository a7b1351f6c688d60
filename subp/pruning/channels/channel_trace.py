"""Which channels of a network may change places: labels carried through the graph that torch.export traces.

Every tensor of the graph gets a twin of the same shape that holds labels. A convolution or linear layer gives each of
its outputs a fresh label; operations that move data (view, transpose, chunk, concat, roll, ...) are run on the labels
as they are run on the data; where an operation joins two tensors element by element (add, multiply, batch norm's
parameters, a dot product's two sides) the labels that meet are *tied*. An operation that treats some channels alike but
apart from others (a group of a grouped convolution, a slice, a head of attention, a normalisation) leaves a *scope*:
labels may only change places with labels that lie in the same scopes, equally often. Label 0 is data in a fixed order:
the input. An operation not understood *pins* what it reads, and so does the network's output.

So nothing is forced, and nothing is known of architectures. `rearrange.py` makes permutations of it.
"""

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from subp_contract.errors import UserError
from subp_contract.modes import in_eval_mode

FIXED = 0
_PAIR = 1 << 31  # above every label: a pair of labels is one number, first * _PAIR + second

# Names in ATen, without the in-place underscore. `torch.Tag.pointwise` knows the other elementwise operations.
_POINTWISE = {"dropout", "feature_dropout", "hardswish", "relu6", "selu", "zero", "fill", "to", "lift_fresh_copy"}
_LAYOUT = {
    *(
        "view",
        "reshape",
        "permute",
        "transpose",
        "swapaxes",
        "t",
        "numpy_T",
        "movedim",
        "unsqueeze",
        "squeeze",
        "flatten",
    ),
    *("unflatten", "expand", "expand_as", "contiguous", "clone", "alias", "detach", "roll", "flip", "cat", "stack"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "channel_shuffle", "pixel_shuffle"),
}
_PARTS = {"slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind"}  # of a tensor: scopes
_SPATIAL = {
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d"),
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
_SYMMETRIC = {"mean", "sum", "amax", "amin", "linalg_vector_norm", "logsumexp"}  # reductions that no order matters to


@dataclass
class Weight:
    """A convolution's or linear layer's weight: labels of its outputs [O] and of its inputs [I], all groups'."""

    rows: Tensor
    columns: Tensor
    groups: int


@dataclass
class Trace:
    """What the graph says; labels are numbers below `count`."""

    weights: dict[str, Weight] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)  # of any other parameter or buffer, by element
    ties: list[Tensor] = field(default_factory=list)  # [pairs, 2] each
    scopes: list[Tensor] = field(default_factory=list)  # labels, repeated as often as they occur
    pins: list[tuple[Tensor, str]] = field(default_factory=list)  # labels, why
    count: int = 1

    def fresh(self, *shape: int) -> Tensor:
        """New labels, each once."""
        first, self.count = self.count, self.count + math.prod(shape)
        return torch.arange(first, self.count).reshape(shape)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Labels that meet when `a` and `b` are broadcast to each other move together."""
        a, b = torch.broadcast_tensors(a, b)
        for axis in range(a.ndim):
            if a.stride(axis) == b.stride(axis) == 0:  # the same pairs again
                a, b = _first(a, axis), _first(b, axis)
        pairs = torch.unique(a * _PAIR + b)
        self.ties.append(torch.stack([pairs // _PAIR, pairs % _PAIR], 1))

    def pin(self, labels: Tensor, reason: str) -> None:
        """These labels stay where they are."""
        self.pins.append((torch.unique(_compact(labels)), reason))

    def scope(self, labels: Tensor, *axes: int) -> None:
        """The labels along `axes` (without any: all of them) are one scope, for each position in the other axes."""
        along = [axis % labels.ndim for axis in axes] or list(range(labels.ndim))
        rest = [axis for axis in range(labels.ndim) if axis not in along]
        rows = _compact(labels.permute(*rest, *along), keep=len(along)).flatten(len(rest))
        self.scopes += list(torch.unique(rows.reshape(-1, rows.shape[-1]), dim=0)) if rest else [rows.reshape(-1)]


def trace(model: nn.Module, example: Tensor) -> Trace:
    """The trace of the model, in eval mode, on inputs shaped as `example` [1, C, H, W]. Raises UserError if
    torch.export cannot trace it.
    """
    try:
        with in_eval_mode(model):
            program = torch.export.export(model, (example,), strict=False)
    except Exception as error:  # torch.export raises what it likes
        raise UserError(f"{type(model).__name__} cannot be traced: {(str(error).splitlines() or [''])[0]}") from error
    return _Tracer(program, _names(model)).run()


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            names[name] = first.setdefault(id(tensor), name)
    return names


class _NotUnderstood(Exception):
    """What an operation does to labels is not known: what it reads is pinned."""


class _Tracer:
    """Walks the graph once. `values`: node -> its labels, or a list of such; a parameter's are made when it is read."""

    def __init__(self, program: torch.export.ExportedProgram, names: dict[str, str]) -> None:
        self.nodes, self.out = program.graph.nodes, Trace()
        self.values: dict[fx.Node, Any] = {}
        signature = program.graph_signature
        held = signature.inputs_to_parameters | signature.inputs_to_buffers
        self.parameters = {node: names.get(name, name) for node, name in held.items()}

    def run(self) -> Trace:
        for node in self.nodes:
            if node.op == "placeholder" and node.name not in self.parameters:
                self.values[node] = _fixed(node)
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "output":
                for result in node.all_input_nodes:
                    if (labels := self.read(result)) is not None:
                        self.out.pin(labels, "these are the network's outputs")
        for name in self.out.weights.keys() & self.out.elements.keys():
            weight = self.out.weights[name]
            for labels in (weight.rows, weight.columns, self.out.elements[name]):
                self.out.pin(labels, f"{name} is also used otherwise than as a layer's weight")
        return self.out

    def call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.values[node.all_input_nodes[0]][node.args[1]]
        try:
            return self.follow(node)
        except _NotUnderstood:
            where = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())[-1][0]
            for read in node.all_input_nodes:
                values = self.read(read)
                for labels in values if isinstance(values, (list, tuple)) else [values]:
                    if labels is not None:
                        self.out.pin(labels, f"{_operation(node)} in {where or 'the network'} needs them in order")
            return _fixed(node)

    def follow(self, node: fx.Node) -> Any:
        """The labels of the node's result, after the ties and scopes that it makes."""
        name = _operation(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise _NotUnderstood
        if not any(isinstance(value.meta.get("val"), Tensor) for value in node.all_input_nodes) or name.startswith(
            "new_"
        ):
            return _fixed(node)
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            return handler(**_arguments(node)).expand(node.meta["val"].shape)
        if name in _LAYOUT:
            return self.layout(node, name)
        if name in _SPATIAL:
            return self.spatial(node, int(name[-2]))
        if name in _SYMMETRIC:
            return self.reduction(**_arguments(node))
        if name in _POINTWISE or torch.Tag.pointwise in node.target.tags:
            return self.pointwise(node)
        raise _NotUnderstood

    def read(self, node: fx.Node) -> Any:
        """A node's labels."""
        if node.name not in self.parameters:
            return self.values[node]
        name = self.parameters[node.name]
        if name not in self.out.elements:
            self.out.elements[name] = self.out.fresh(*node.meta["val"].shape)
        return self.out.elements[name]

    def layout(self, node: fx.Node, name: str) -> Any:
        move: Any = (
            torch.ops.aten.reshape.default if name == "view" else node.target
        )  # labels may repeat without a stride
        moved = move(*fx.map_arg(node.args, self.read), **node.kwargs)
        if name in _PARTS:
            for part in moved if isinstance(moved, (list, tuple)) else [moved]:
                self.out.scope(part)
        return moved

    def spatial(self, node: fx.Node, rank: int) -> Tensor:
        """Over the last `rank` axes: one channel's pixels in, the same channel's out."""
        labels, axes = self.read(node.all_input_nodes[0]), range(-rank, 0)
        _understood_if(not any(_varies(labels, axis) for axis in axes))
        return _first(labels, *axes).expand(node.meta["val"].shape)

    def pointwise(self, node: fx.Node) -> Tensor:
        operands = [self.read(read) for read in node.all_input_nodes]
        shape = node.meta["val"].shape
        aligned = [labels.reshape([1] * (len(shape) - labels.ndim) + list(labels.shape)) for labels in operands]
        return self.join(aligned).expand(shape)

    def join(self, operands: list[Tensor]) -> Tensor:
        """Ties tensors of one rank that meet element by element. One that is broadcast along others' channels, as one
        value for them all, is not tied. Returns the labels of that which depends on fewest axes.
        """
        varying = [_varying(labels) for labels in operands]
        axes, size = set().union(*varying), torch.broadcast_shapes(*(labels.shape for labels in operands))
        whole = [i for i, labels in enumerate(operands) if all(labels.shape[axis] == size[axis] for axis in axes)]
        _understood_if(bool(whole) and not any(varying[i] for i in range(len(operands)) if i not in whole))
        for i in whole[1:]:
            self.out.tie(operands[whole[0]], operands[i])
        return operands[min(whole, key=lambda i: len(varying[i]))]

    def reduction(self, self_: fx.Node, dim: int | list[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
        labels = self.read(self_)
        axes = [axis % labels.ndim for axis in ([dim] if isinstance(dim, int) else dim or range(labels.ndim))]
        if any(_varies(labels, axis) for axis in axes):
            self.out.scope(labels, *axes)
            labels = torch.zeros_like(labels)
        reduced = _first(labels, *axes)
        return reduced if keepdim else reduced.squeeze(tuple(axes))

    def layer(self, labels: Tensor, weight: fx.Node, bias: fx.Node | None, axis: int, groups: int = 1) -> Tensor:
        """A convolution or linear layer over the channels along `axis`; returns the labels [O] of its outputs."""
        _understood_if(weight.name in self.parameters)
        name, outputs, inputs = self.parameters[weight.name], weight.meta["val"].shape[0], labels.shape[axis]
        held = self.out.weights.setdefault(name, Weight(self.out.fresh(outputs), self.out.fresh(inputs), groups))
        _understood_if(held.groups == groups and len(held.columns) == inputs)
        self.out.tie(labels, _along(held.columns, axis, labels.ndim))
        if groups == inputs == outputs:
            self.out.tie(held.columns, held.rows)  # depthwise
        else:
            for side in (held.columns, held.rows):
                self.out.scope(side.reshape(groups, -1), 1)
        if bias is not None:
            self.out.tie(held.rows, self.read(bias))
        return held.rows

    def _conv2d(self, input, weight, bias=None, groups=1, **_):
        _understood_if(len(weight.meta["val"].shape) == input.meta["val"].ndim)
        labels = self.read(input)
        return _along(self.layer(labels, weight, bias, axis=1, groups=groups), 1, labels.ndim)

    _conv1d = _conv3d = _conv2d

    def _linear(self, input, weight, bias=None):
        return self.layer(self.read(input), weight, bias, axis=-1)

    def _batch_norm(self, input, weight, bias, running_mean, running_var, **_):
        return self.affine(self.read(input), [weight, bias, running_mean, running_var], 1)

    def _layer_norm(self, input, normalized_shape, weight=None, bias=None, **_):
        labels = self.read(input)
        self.out.scope(labels, *range(-len(normalized_shape), 0))
        return self.affine(labels, [weight, bias], -1)

    _rms_norm = _layer_norm

    def _group_norm(self, input, num_groups, weight=None, bias=None, **_):
        labels = self.read(input)
        self.out.scope(labels.unflatten(1, (num_groups, -1)), *range(2, labels.ndim + 1))
        return self.affine(labels, [weight, bias], 1)

    def affine(self, labels: Tensor, parameters: list[fx.Node | None], axis: int) -> Tensor:
        """A norm's parameters: vectors along `axis`, or of the shape of the last axes. At all positions they are the
        same.
        """
        read = [self.read(parameter) for parameter in parameters if parameter is not None]
        aligned = [_along(each, axis, labels.ndim) if each.ndim == 1 else each for each in read]
        for each in aligned:
            self.out.tie(labels, each)
        return aligned[0] if aligned else labels

    def _softmax(self, self_, dim, **_):
        labels = self.read(self_)
        self.out.scope(labels, dim)
        return labels

    _log_softmax = _softmax

    def _pad(self, self_, pad, mode="constant", **_):
        labels = self.read(self_)
        axes = [labels.ndim - 1 - i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
        _understood_if(not any(_varies(labels, axis) for axis in axes))
        return _first(labels, *axes)

    def _matmul(self, self_, other):
        return self.product(self.read(self_), self.read(other))

    _bmm = _matmul

    def _scaled_dot_product_attention(self, query, key, value, attn_mask=None, enable_gqa=False, **_):
        _understood_if(attn_mask is None and not enable_gqa)
        scores = self.product(self.read(query), self.read(key).transpose(-1, -2))
        return self.product(scores, self.read(value))

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """[..., M, K] @ [..., K, N]: what is summed over is tied; channels of one side pass, in their own matrix."""
        _understood_if(a.ndim == b.ndim >= 2)
        shape = (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        if _varies(a, -1) or _varies(b, -2):
            _understood_if(not _varies(a, -2) and not _varies(b, -1))
            sides = a[..., 0, :], b[..., 0]
            self.out.tie(*sides)
            for side in sides:
                self.out.scope(side, -1)
            return torch.tensor(FIXED).expand(shape)
        _understood_if(not (_varies(a, -2) and _varies(b, -1)))
        passing, axis = (a[..., :1], -2) if _varies(a, -2) else (b[..., :1, :], -1)
        self.out.scope(passing, axis)
        return passing.expand(shape)


def _operation(node: fx.Node) -> str:
    """'relu' of aten.relu_.default."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2].removesuffix("_")
    return getattr(node.target, "__name__", str(node.target))


def _arguments(node: fx.Node) -> dict:
    """The call's arguments by their names in the schema (`self_` for self), as far as they are given."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return {"self_" if name == "self" else name: value for name, value in given.items()}


def _fixed(node: fx.Node) -> Any:
    """Labels of data in a fixed order, shaped as the node's value; None where that is no tensor."""

    def labels(value):
        return torch.tensor(FIXED).expand(value.shape) if isinstance(value, Tensor) else None

    value = node.meta.get("val")
    return [labels(part) for part in value] if isinstance(value, (list, tuple)) else labels(value)


def _understood_if(condition: bool) -> None:
    if not condition:
        raise _NotUnderstood


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """The vector as a tensor of that rank, along the axis."""
    return vector.reshape([-1 if other == axis % rank else 1 for other in range(rank)])


def _first(labels: Tensor, *axes: int) -> Tensor:
    """Position 0 of the axes, kept with size 1."""
    for axis in axes:
        labels = labels.narrow(axis, 0, 1)
    return labels


def _varies(labels: Tensor, axis: int) -> bool:
    """Whether the label depends on the position along the axis."""
    if labels.shape[axis] == 1 or labels.stride(axis) == 0:
        return False
    small = _compact(labels)
    return bool((small != small.narrow(axis, 0, 1)).any())


def _varying(labels: Tensor) -> list[int]:
    return [axis for axis in range(labels.ndim) if _varies(labels, axis)]


def _compact(labels: Tensor, keep: int = 0) -> Tensor:
    """Of axes that only repeat (stride 0), the first position; the last `keep` axes stay as they are."""
    return _first(labels, *(axis for axis in range(labels.ndim - keep) if labels.stride(axis) == 0))
