"""Where tables and progress bars go. Plain lines go through `click.echo`, which neither wraps nor colours them."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from time import monotonic
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from subp_contract.documents import shown

LONGEST = 100_000  # letters of a line
UNBOUNDED = 10_000  # characters of a table's line that goes to a file or a pipe
FRAME = 3  # of a cell: its border, and a space at each side


def console() -> Console:
    """Standard output, as wide as the terminal that it is; what it is not for a terminal is not wrapped."""
    output = Console(highlight=False, markup=False)  # a name may have brackets
    if not output.is_terminal:
        output.width = UNBOUNDED
    return output


def show(table: Table, output: Console | None = None) -> None:
    """Prints a table so that nothing is cut off: one that is wider than the terminal in several parts, one below the
    other, each beginning with the first column. To a file or a pipe: a line a row, without frames.
    """
    output = output or console()
    for column in table.columns:
        column.header, column.footer = harmless(column.header), harmless(column.footer)
        column._cells = [harmless(cell) for cell in column._cells]
    table.title, table.caption = harmless(table.title), harmless(table.caption)
    for part in parts_of(table, output.width) if output.is_terminal else [plain(table)]:
        output.print(part)


def plain(table: Table) -> Table:
    """The table in lines for other programs: cells two spaces apart, no frame."""
    lines = _part(table, table.columns, is_first=True, is_last=True)
    lines.box, lines.padding, lines.pad_edge = None, (0, 2, 0, 0), False
    lines.title_justify = lines.caption_justify = "left"
    return lines


def say(line: str, err: bool = False) -> None:
    """`click.echo` of a line that has names from files in it."""
    click.echo(shown(line, LONGEST), err=err)


def harmless(cell: Any) -> Any:
    """A table's cell, where it is text each of its lines without commands to the terminal."""
    return "\n".join(shown(line, LONGEST) for line in cell.split("\n")) if isinstance(cell, str) else cell


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


def live(*columns: Any, **options: Any) -> Any:
    """rich's Progress on standard error, where that is a terminal. It has a descriptor of its own, since the process's
    is taken away while TVM works (`tvm_sched.quiet`), and leaves what goes to a file or a pipe alone.
    """
    from rich.progress import Progress

    if not sys.stderr.isatty():
        return Progress(disable=True)
    error = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))
    return Progress(*columns, console=error, transient=True, redirect_stdout=sys.stdout.isatty(), **options)


@contextmanager
def working(on: str) -> Iterator[None]:
    """Shows on a terminal what is worked on, and for how long, while the block runs: of work that nobody can tell the
    end of.
    """
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with live(*columns) as shown:
        shown.add_task(on, total=None)
        yield


@contextmanager
def bar(measuring: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the rate and the time left, on a terminal; gives what is to be called with (steps done, in all, what
    is worked on). measuring: draws only when that is called, since a thread that draws would take time of what is
    measured.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with live(*columns, auto_refresh=not measuring) as shown:
        task = shown.add_task("", rate="")

        def report(done: int, total: int, name: str) -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            shown.update(task, completed=done, total=total, description=name, rate=rate, refresh=measuring)

        yield report


@contextmanager
def staged(
    seconds: Mapping[str, float], output: Console | None = None, what: str = ""
) -> Iterator[Callable[[str, float], None]]:
    """A bar over a job of these stages with the time left, on a terminal; gives what is to be called with (stage, share
    of it that is done, from 0 to 1).

    seconds: that each stage takes, in order; on another machine all of them more or less by one factor
    output:  what is printed meanwhile stays above the bar; by default it is on standard error
    what:    words before a stage's name
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    names = list(seconds)
    before = dict(zip(seconds, accumulate(seconds.values(), initial=0.0), strict=False))
    total, began = sum(seconds.values()), monotonic()
    trust = total / 20  # seconds of the stages in which the machine is taken to be as fast as it was expected
    end: float | None = None  # as it was expected last

    class Left(TextColumn):
        """Counts down to the end between two reports."""

        def render(self, task: Any) -> Text:
            left = "" if end is None else f"{max(0.0, end - monotonic()):.0f} s left"
            return Text(left)

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), Left(""))
    if output is None:
        made = live(*columns)
    else:  # few refreshes: each takes a moment of what is measured
        made = Progress(*columns, console=output, transient=True, refresh_per_second=2, disable=not output.is_terminal)
    with made as shown:
        told = [f"{what}{name.replace('_', ' ')}" for name in names]
        task = shown.add_task(told[0], total=total)

        def report(stage: str, share: float) -> None:
            nonlocal end
            done = before[stage] + share * seconds[stage]
            now = monotonic()
            end = now + (trust + now - began) / (trust + done) * (total - done)
            following = names.index(stage) + (share >= 1)
            shown.update(task, completed=done, description=told[min(following, len(names) - 1)])

        yield report


def tracked(description: str) -> Callable[..., Iterator]:
    """What iterates over something of so many items (by default its length) with a bar, the rate and the time left, on
    a terminal alone.
    """

    def over(items: Iterable, total: int | None = None) -> Iterator:
        total = len(items) if total is None else total
        with bar() as report:
            report(0, total, description)
            for done, item in enumerate(items, 1):
                yield item
                report(done, total, description)

    return over
