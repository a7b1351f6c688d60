"""Where tables and progress bars go. Plain lines go through `click.echo`, which neither wraps nor colours them."""

from rich.console import Console

WIDE = 160  # columns of a table that goes to a file or a pipe


def console() -> Console:
    """Standard output, as wide as the terminal that it is."""
    output = Console(highlight=False, markup=False)  # a file's name may hold brackets
    if not output.is_terminal:
        output.width = WIDE
    return output
