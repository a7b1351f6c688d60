"""Tables on narrow terminals: nothing is cut off."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from subp.cli.options.terminal import parts_of, show


def a_table(columns: int) -> Table:
    table = Table(title="a title", caption="a caption", show_footer=True)
    table.add_column("layer", footer="total")
    for number in range(columns):
        table.add_column(f"column {number}", justify="right", footer=f"sum {number}")
    for row in range(3):
        table.add_row(f"features.{row}.conv", *(f"{row}-{number}" for number in range(columns)))
    return table


def printed(table: Table, width: int) -> str:
    output = io.StringIO()
    show(table, Console(file=output, width=width, color_system=None, force_terminal=True))
    return output.getvalue()


@pytest.mark.parametrize("width", [40, 80, 400])
def test_every_cell_is_whole_at_every_width(width):
    told = printed(a_table(12), width)
    assert max(map(len, told.splitlines())) <= width and "…" not in told
    for number in range(12):
        assert all(text in told for text in (f"column {number}", f"sum {number}", f"2-{number}"))
    parts = told.count("features.1.conv")
    assert told.count("a title") == told.count("a caption") == 1 and told.count("total") == parts
    assert parts == len(list(parts_of(a_table(12), width))) and (parts == 1) == (width == 400)


def test_a_pipe_gets_aligned_lines_that_are_not_folded():
    output = io.StringIO()
    table = Table("layer", "why it is", title="a title", caption="a caption")
    table.add_column("ms", justify="right")
    table.add_row("conv1", "because " * 40, "1.5")
    table.add_row("features.2.conv", "so", "10.25")
    show(table, Console(file=output, width=40))
    title, *rows, caption = output.getvalue().splitlines()
    assert (title, caption) == ("a title", "a caption") and output.getvalue().isascii()
    assert [re.split(" {2,}", row) for row in rows] == [
        ["layer", "why it is", "ms"],
        ["conv1", ("because " * 40).strip(), "1.5"],
        ["features.2.conv", "so", "10.25"],
    ]
    assert len({len(row) for row in rows}) == 1  # the last column stands to the right


def test_a_column_wider_than_the_terminal_is_folded():
    table = Table("layer", "why")
    table.add_row("conv1", "because " * 20 + "of this")
    told = printed(table, 40)
    assert max(map(len, told.splitlines())) <= 40 and "…" not in told and told.count("because") == 20
