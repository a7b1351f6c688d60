"""Where tables and progress bars go. Plain lines go through `click.echo`, which neither wraps nor colours them."""

from collections.abc import Callable, Iterable

from rich.console import Console

WIDE = 160  # columns of a table that goes to a file or a pipe


def console() -> Console:
    """Standard output, as wide as the terminal that it is."""
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = WIDE
    return output


def tracked(description: str) -> Callable[[Iterable, int], Iterable]:
    """What iterates over something of so many items with a bar, the rate and the time left, on a terminal alone."""
    from rich.progress import track

    error = Console(stderr=True)

    def over(items: Iterable, total: int) -> Iterable:
        return track(items, description, total, console=error, transient=True, disable=not error.is_terminal)

    return over
