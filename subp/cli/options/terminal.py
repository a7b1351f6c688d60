"""Where tables and progress bars go. Plain lines go through `click.echo`, which neither wraps nor colours them."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

WIDE = 160  # columns of text that goes to a file or a pipe
WIDEST = 10_000  # of a table there, which is never folded
FRAME = 3  # of a cell: its border, and a space at each side


def console() -> Console:
    """Standard output, as wide as the terminal that it is."""
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = WIDE
    return output


def show(table: Table, output: Console | None = None) -> None:
    """Prints a table so that nothing is cut off: on a terminal one that is wider in several parts, one below the other,
    each beginning with the first column; elsewhere as plain lines.
    """
    output = output or console()
    if not output.is_terminal:
        output.print(plain(table), markup=False, soft_wrap=True)
        return
    for part in parts_of(table, output.width):
        output.print(part)


def plain(table: Table) -> str:
    """The table for a file or another program: title, header and rows as lines of aligned columns, two spaces or more
    apart, without lines drawn.
    """
    bare = _part(table, table.columns, is_first=False, is_last=False)
    bare.box, bare.pad_edge, bare.padding = None, False, (0, 2, 0, 0)
    text = io.StringIO()
    Console(file=text, width=WIDEST, color_system=None, highlight=False).print(bare)
    lines = [str(table.title or ""), *text.getvalue().splitlines(), str(table.caption or "")]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def parts_of(table: Table, width: int) -> Iterator[Table]:
    """The table, or where it is wider than `width` characters the tables of some of its columns each that are not, as
    far as single columns are not wider: those fold their text.
    """
    first, *others = table.columns
    widths = [max(len(line) for line in _lines(column)) + FRAME for column in table.columns]
    if sum(widths) + 1 <= width or not others:
        yield table
        return
    groups: list[list[Column]] = [[]]
    used = 0
    for column, needed in zip(others, widths[1:], strict=True):
        if groups[-1] and widths[0] + used + needed + 1 > width:
            groups.append([])
            used = 0
        groups[-1].append(column)
        used += needed
    for number, group in enumerate(groups):
        yield _part(table, [first, *group], number == 0, number == len(groups) - 1)


def _part(table: Table, columns: Sequence[Column], is_first: bool, is_last: bool) -> Table:
    part = Table(
        title=table.title if is_first else None,
        caption=table.caption if is_last else None,
        title_justify=table.title_justify,
        caption_justify=table.caption_justify,
        box=table.box,
        show_footer=table.show_footer,
        show_edge=table.show_edge,
        pad_edge=table.pad_edge,
    )
    for column in columns:
        part.add_column(column.header, column.footer, justify=column.justify, overflow="fold")
    cells = [list(column.cells) for column in columns]
    for number, row in enumerate(table.rows):
        part.add_row(*(each[number] for each in cells), end_section=row.end_section)
    return part


def _lines(column: Column) -> list[str]:
    """All that a column holds, line by line, a space standing for each character's place."""
    texts = [column.header, column.footer, *column.cells]
    return [" " * cell_len(line) for text in texts for line in (str(text).splitlines() or [""])]


@contextmanager
def working(on: str) -> Iterator[None]:
    """Shows on a terminal what is worked on, and for how long, while the block runs: of work that nobody can tell the
    end of.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    error = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=error, transient=True, disable=not error.is_terminal) as shown:
        shown.add_task(on, total=None)
        yield


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the rate and the time left, on a terminal; gives what is to be called with (steps done, in all, what
    is worked on).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    error = Console(stderr=True)
    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=error, transient=True, disable=not error.is_terminal) as shown:
        task = shown.add_task("", rate="")

        def report(done: int, total: int, name: str) -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            shown.update(task, completed=done, total=total, description=name, rate=rate)

        yield report


def tracked(description: str) -> Callable[[Iterable, int], Iterable]:
    """What iterates over something of so many items with a bar, the rate and the time left, on a terminal alone."""

    def over(items: Iterable, total: int) -> Iterable:
        with bar() as report:
            report(0, total, description)
            for done, item in enumerate(items, 1):
                yield item
                report(done, total, description)

    return over
