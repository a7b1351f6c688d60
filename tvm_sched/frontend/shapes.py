"""Examples of other shapes than the one that the user gave, for networks that are compiled for several."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_flatten, tree_unflatten

from subp_contract.errors import UserError
from tvm_sched.frontend.torch_export import arguments

Shape = Sequence[int]


def examples(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    shapes: Sequence[Shape | Sequence[Shape]],
) -> list[tuple[tuple, dict[str, Any]]]:
    """(args, kwargs) of each shape, which is the input tensor's, or a tuple of those of all input tensors, in the order
    of the arguments. Numbers are the example's, again and again. Raises UserError for shapes that do not fit the
    example, or come twice.
    """
    if isinstance(module, ExportedProgram):
        raise UserError("an exported program is for the shape it was exported for: give the module to have several")
    if not shapes:
        raise UserError("no shapes are given: leave 'shapes' out, or give some")
    leaves, spec = tree_flatten(arguments(example_inputs, example_kwargs))
    tensors = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    wanted = [_one_each(shape, len(tensors)) for shape in shapes]
    if twice := next((shape for place, shape in enumerate(wanted) if shape in wanted[:place]), None):
        raise UserError(f"the shape {', '.join(map(str, map(list, twice)))} is given twice")
    made = []
    for shape in wanted:
        other = list(leaves)
        for place, extents in zip(tensors, shape, strict=True):
            other[place] = _of_shape(leaves[place], extents)
        made.append(tree_unflatten(other, spec))
    return made


def of_each_input(shape: Shape | Sequence[Shape]) -> tuple[tuple[int, ...], ...]:
    """A shape, or those of several inputs, as the latter."""
    alone = all(isinstance(extent, int) for extent in shape)
    return tuple(tuple(extents) for extents in ([shape] if alone else shape))  # type: ignore[arg-type]


def _one_each(shape: Shape | Sequence[Shape], count: int) -> tuple[tuple[int, ...], ...]:
    """The shape as one of each input tensor."""
    each = of_each_input(shape)
    if len(each) != count:
        raise UserError(
            f"{len(each)} shapes are given together, and the network takes {count} input tensors: give a tuple of "
            "their shapes"
        )
    if wrong := [extents for extents in each if not all(isinstance(n, int) and n > 0 for n in extents)]:
        raise UserError(f"{wrong[0]} is no shape: give positive whole numbers")
    return each


def _of_shape(example: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The example's numbers, again and again."""
    if len(shape) != example.ndim or not example.numel():
        raise UserError(f"an input of {list(example.shape)} cannot have the shape {list(shape)}: give as many axes")
    places = torch.arange(torch.Size(shape).numel()) % example.numel()
    return example.detach().reshape(-1)[places].reshape(shape)
