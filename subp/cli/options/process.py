"""What commands may ask about the process that they run in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """The object of the root context; a command called on its own, as in tests, has none."""

    own: bool  # the process exists for one command line, and ends with it
