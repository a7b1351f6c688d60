"""A hyperparameter is written once: name, default, range and help are a field of a small dataclass beside the code that
reads it.

    @dataclass(frozen=True)
    class Regrowing(Hyperparameters):
        tau: float = hyperparameter(0.01, "Temperature of regrowing.", lambda tau: tau > 0, "a temperature is above 0")

Of these fields are made the keyword `tau` of `Sparsifier`, the entry of the training's `Config.hyperparameters`, the
option `--tau` of `subp train` with its help, and the check of what is given. PyTorch is not imported, for `--help`.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from subp_contract.errors import require

ABSTRACT: dict[type, type] = {int: Integral, float: Real}  # NumPy's numbers too

Own = TypeVar("Own", bound="Hyperparameters")


def hyperparameter(default: Any, help: str, holds: Callable[[Any], bool], rule: str) -> Any:
    """A field of a `Hyperparameters` class.

    help:         for the command line, a sentence
    holds, rule:  whether a value is in range; and the range in words, for the message about one that is not
    """
    return field(default=default, metadata={"help": help, "holds": holds, "rule": rule})


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of one thing (a method, a criterion); itself it has none.

    Raises UserError for a value out of range, or of another type than the default.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), type(each.default)
            fits = isinstance(value, ABSTRACT.get(kind, kind))
            right = fits and isinstance(value, bool) == (kind is bool) and each.metadata["holds"](value)
            require(right, f"{each.name} = {value}: {each.metadata['rule']}")

    @classmethod
    def among(cls: "type[Own]", given: Mapping[str, Any]) -> "Own":
        """Those of this class among the values given by name, the others by default."""
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})


def fields_by_name(classes: "list[type[Hyperparameters]]") -> dict[str, Field]:
    """The hyperparameters of these classes. Raises UserError where two that differ have one name."""
    found: dict[str, Field] = {}
    for cls in dict.fromkeys(classes):
        for each in fields(cls):
            require(each.name not in found, f"{cls.__qualname__}.{each.name}: there is a hyperparameter of that name")
            found[each.name] = each
    return found
