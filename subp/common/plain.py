"""Settings as Python and JSON have them. NumPy's and PyTorch's numbers, of loops and searches, become Python's."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

from subp_contract.arguments import described, whole_number
from subp_contract.errors import require


def plain(value: Any) -> Any:
    """A number of NumPy's or PyTorch's as Python's; a mapping's values likewise; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def patterns(value: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns of names; a single one may stand by itself."""
    return (value,) if isinstance(value, str) else tuple(value)


def settle(settings: Any) -> None:
    """Makes fields of a frozen dataclass what they are declared as: whole numbers, numbers, a single name a tuple.
    Raises UserError, naming the field, where that cannot be.
    """
    for each in fields(settings):
        value = plain(getattr(settings, each.name))
        kinds = get_args(each.type) or (each.type,)
        if value is not None and int in kinds:
            value = whole_number(each.name, value)
        elif value is not None and float in kinds:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(is_number, f"{each.name} must be a number, not {described(value)}")
        elif each.type == tuple[str, ...] and isinstance(value, str):
            value = patterns(value)
        object.__setattr__(settings, each.name, value)
