"""What a caller gave as an argument, or one sentence about it: its type and range, told by the argument's name.

threads = whole_number("threads", threads, least=1)  # "threads must be a whole number from 1, not 'a'"
"""

import math
import operator
import os
from pathlib import Path
from typing import Any

from subp_contract.errors import UserError, require


def require_kind(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> None:
    """Raises UserError unless the argument of that name is of one of these types, which `words` describe."""
    require(isinstance(value, kind), f"{name} must be {words}, not {described(value)}")


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The argument as an int, NumPy's too. Raises UserError for any other, and for one out of range."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    fits = number is not None and (least is None or number >= least) and (most is None or number <= most)
    if number is None or not fits:
        raise UserError(f"{name} must be a whole number{_range(least, most)}, not {described(value)}")
    return number


def finite_number(name: str, value: Any, above: float | None = None) -> float:
    """The argument as a float. Raises UserError for NaN, infinities, what is no number, and for one not `above`."""
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or (above is not None and not number > above):
        beyond = "" if above is None else f" above {above:g}"
        raise UserError(f"{name} must be a finite number{beyond}, not {described(value)}")
    return number


def path_of(name: str, value: Any) -> Path:
    """The argument as a path. Raises UserError where it is none."""
    require_kind(name, value, (str, os.PathLike), "a path")
    return Path(value)


def described(value: Any) -> str:
    """A short value as it is written, any other by its type."""
    if isinstance(value, (int, float, str, bool, type(None))) and len(repr(value)) <= 40:
        return repr(value)
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _range(least: int | None, most: int | None) -> str:
    parts = [f" from {least}"] * (least is not None) + [f" to {most}"] * (most is not None)
    return "".join(parts)
