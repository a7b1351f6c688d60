"""Tables on narrow terminals: nothing is cut off."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from subp.cli.options import terminal
from subp.cli.options.terminal import parts_of, show, staged


def a_table(columns: int) -> Table:
    table = Table(title="a title", caption="a caption", show_footer=True)
    table.add_column("layer", footer="total")
    for number in range(columns):
        table.add_column(f"column {number}", justify="right", footer=f"sum {number}")
    for row in range(3):
        table.add_row(f"features.{row}.conv", *(f"{row}-{number}" for number in range(columns)))
    return table


def printed(table: Table, width: int, terminal: bool = True) -> str:
    output = io.StringIO()
    show(table, Console(file=output, width=width, color_system=None, force_terminal=terminal))
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


def test_a_column_wider_than_the_terminal_is_folded():
    table = Table("layer", "why")
    table.add_row("conv1", "because " * 20 + "of this")
    told = printed(table, 40)
    assert max(map(len, told.splitlines())) <= 40 and "…" not in told and told.count("because") == 20


def test_to_a_pipe_goes_a_line_a_row_without_frames():
    title, header, *rows, footer, caption = printed(a_table(40), 10_000, terminal=False).splitlines()
    assert (title.strip(), caption.strip()) == ("a title", "a caption")
    assert header.split() == ["layer", *(word for number in range(40) for word in ("column", str(number)))]
    assert [row.split() for row in rows] == [
        [f"features.{row}.conv", *(f"{row}-{number}" for number in range(40))] for row in range(3)
    ]
    assert footer.split()[:3] == ["total", "sum", "0"]


def test_a_job_of_stages_tells_the_time_left(monkeypatch):
    now, output = [100.0], io.StringIO()
    monkeypatch.setattr(terminal, "monotonic", lambda: now[0])
    console = Console(file=output, width=80, color_system=None, force_terminal=True)
    with staged({"first": 10.0, "second": 30.0}, console) as reached:
        now[0] += 20  # twice as long as it was expected
        reached("first", 1)
    # 30 s at the pace so far, in which 2 s, a twentieth of all, count as if they had gone as expected
    assert "second" in output.getvalue() and "25%" in output.getvalue()
    assert f"{30 * (2 + 20) / (2 + 10):.0f} s left" in output.getvalue()


def test_a_job_of_stages_says_nothing_to_a_pipe():
    output = io.StringIO()
    with staged({"only": 1.0}, Console(file=output)) as reached:
        reached("only", 0.5)
    assert output.getvalue().strip() == ""
