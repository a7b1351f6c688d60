"""JSON that comes from elsewhere, checked against a schema before anybody reads it.

A schema is a type that `msgspec` knows: a `TypedDict`, `list[int]`, an `Annotated` number with its range.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from subp_contract.errors import UserError
from subp_contract.files import read_file

LARGEST = 2**28  # bytes of a JSON file
LONGEST = 200  # letters of a foreign text in a sentence
T = TypeVar("T")


def read_json(path: str | Path, kind: type[T] | Any = Any, what: str = "") -> Any:
    """The JSON in a file, of that kind. Raises UserError, one sentence with the path and `what` it should be, where it
    is no regular file, is too large, is no JSON, or is of another kind.
    """
    return parse_json(read_file(path, LARGEST), kind, f"{what} {path}".strip())


def parse_json(content: bytes | str, kind: type[T] | Any, name: str) -> Any:
    """The same of its bytes; `name` tells in sentences what they are."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise UserError(f"{name} is no JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{name} is no JSON: {shown(str(error))}") from None
    return of_kind(value, kind, name)


def of_kind(value: Any, kind: type[T] | Any, name: str) -> Any:
    """The value, if it is of that kind; else raises UserError, with the place in it."""
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{name} is damaged or of another version: {shown(str(error))}") from None
    except RecursionError:
        raise UserError(f"{name} is damaged: it is nested too deep") from None
    return value


def is_of_kind(value: Any, kind: type[T] | Any) -> bool:
    """Whether a value is of that kind."""
    try:
        msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def shown(text: str, longest: int = LONGEST) -> str:
    """A text from a file as a terminal may show it: control characters, which may be commands to it, as escapes, and
    no longer than is sensible.
    """
    plain = "".join(each if not unicodedata.category(each).startswith("C") else _escaped(each) for each in text)
    return plain if len(plain) <= longest else f"{plain[:longest]}..."


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode()
