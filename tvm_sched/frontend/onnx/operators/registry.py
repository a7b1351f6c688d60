"""The table: ONNX's name of an operator -> a function of a node and its inputs, made of PyTorch's functions.

    @operator("Trilu", fixed=(1,))
    def trilu(node, x, k=0):
        return x.triu(k or 0) if node["upper"] else x.tril(k or 0)

Inputs that the node leaves out are None. Those named `fixed` are known when the file is loaded, and come as Python
numbers or lists of them; those named `folded` do so where they are known, and are tensors otherwise.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Numbers = Any  # a number, or (nested) lists of them, as `Tensor.tolist` gives them


@dataclass(frozen=True)
class Node:
    """What an operator's function is told of its node."""

    op: str
    name: str  # the file's, or where it has none what the node makes
    version: int  # of the operator set that it is written in
    attributes: Mapping[str, Any]  # the schema's defaults included; None where an attribute has none
    outputs: int  # how many are wanted, counted up to the last

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes.get(attribute)

    def __str__(self) -> str:
        return f"{self.op} (node '{self.name}')"


@dataclass(frozen=True)
class Operator:
    """An operator's function `convert(node, *inputs)`, which gives a tensor or a tuple of them."""

    convert: Callable[..., Tensor | tuple[Tensor | None, ...]]
    fixed: frozenset[int] = frozenset()
    folded: frozenset[int] = frozenset()
    of_shape: bool = False  # the result depends on the inputs' shapes alone
    kept: Callable[[list[Tensor]], bool] | None = (
        None  # of known inputs: whether it is computed at each call all the same
    )


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str,
    fixed: Iterable[int] = (),
    folded: Iterable[int] = (),
    of_shape: bool = False,
    kept: Callable[[list[Tensor]], bool] | None = None,
) -> Callable[[Callable], Callable]:
    """Enters a function into the table under these names; see above."""

    def enter(convert: Callable) -> Callable:
        made = Operator(convert, frozenset(fixed), frozenset(folded), of_shape, kept)
        OPERATORS.update(dict.fromkeys(names, made))
        return convert

    return enter


def unary(functions: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
    """Enters functions of one tensor that look at no attribute."""
    for name, function in functions.items():
        operator(name)(lambda node, x, function=function: function(x))


def scalar(value: Numbers, default: Any = None) -> Any:
    """The number in a fixed input of no or of one dimension; the default where it is left out."""
    while isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value
