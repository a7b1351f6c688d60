"""Whole numbers and booleans that rounding decides: where PyTorch and compiled code may both be right.

An index of the largest of several numbers that are equal within the limit of error may be any of theirs, and numbers
that equal their bound so closely may be on either side of it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from tvm_sched.deploy.manifest import error_limit
from tvm_sched.frontend.aten.source_place import operator
from tvm_sched.frontend.torch_export import to_array

UNMOVED = {"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "clone", "_to_copy", "alias", "detach", "copy"}
COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
PICKING = {"max", "min", "sort", "topk", "argsort", "argmax", "argmin"}  # along an axis, or of all numbers
POOLING = {  # operator -> axes of an image, whose pixels are numbered through
    "max_pool2d_with_indices": 2,
    "adaptive_max_pool2d": 2,
    "max_pool3d_with_indices": 3,
    "adaptive_max_pool3d": 3,
}


def explains(node: fx.Node, ours: Tensor, values: Mapping[fx.Node, Any], relative: float = 0.0) -> bool:
    """Whether `ours` differs from the node's value by PyTorch, one of `values`, only where rounding may decide."""
    theirs = values[node]
    if not isinstance(theirs, Tensor) or theirs.is_floating_point() or ours.shape != theirs.shape:
        return False
    while operator(node) in UNMOVED and values[node.all_input_nodes[0]].numel() == ours.numel():
        node = node.all_input_nodes[0]
        theirs = values[node]
        ours = ours.reshape(theirs.shape).to(theirs.dtype)
    if operator(node) in COMPARISONS:
        one, other = map(torch.as_tensor, list(arguments_of(node, values).values())[:2])
        return compares_equals(one, other, ours != theirs, relative)
    source = node if operator(node) else next(iter(node.all_input_nodes), node)  # an item of several results
    if operator(source) not in PICKING and operator(source) not in POOLING:
        return False
    x, *_ = (arguments := arguments_of(source, values)).values()
    picked, expected = (numbers_at(operator(source), x, index, arguments.get("dim")) for index in (ours, theirs))
    if picked is None or expected is None:
        return False
    return bool((picked.double() - expected.double()).abs().max() <= error_limit(to_array(x), relative=relative))


def compares_equals(one: Tensor, other: Tensor, differs: Tensor, relative: float) -> bool:
    """Whether the operands of a comparison are equal within the limit of error wherever its results differ."""
    if not one.is_floating_point() and not other.is_floating_point():
        return False
    gap = (one.double() - other.double()).abs().broadcast_to(differs.shape)
    fractions = to_array(one if one.is_floating_point() else other)
    return bool((gap[differs] <= error_limit(fractions, relative=relative)).all())


def arguments_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """A call's arguments by their names in the operator's schema, in its order, defaults among them."""
    schema = getattr(node.target, "_schema").arguments  # noqa: B009, of an OpOverload
    given = dict(zip((each.name for each in schema), node.args, strict=False)) | node.kwargs
    told = {each.name: given.get(each.name, each.default_value) for each in schema}
    return {name: values[each] if isinstance(each, fx.Node) else each for name, each in told.items()}


def numbers_at(name: str, x: Tensor, index: Tensor, dim: int | None) -> Tensor | None:
    """What an operator's indices pick of its operand, along an axis if that has one; None where one of them is none of
    it.
    """
    axis = -1 if dim is None else dim
    if name in POOLING:
        x, index = x.flatten(-POOLING[name]), index.flatten(-POOLING[name])
    elif dim is None:
        x, index = x.flatten(), index.flatten()
    elif index.ndim < x.ndim:
        index = index.unsqueeze(axis)
    if x.ndim == 0:
        x, index = x.unsqueeze(0), index.reshape(1)
    index = index.long()
    return x.gather(axis, index) if int(index.min()) >= 0 and int(index.max()) < x.shape[axis] else None
