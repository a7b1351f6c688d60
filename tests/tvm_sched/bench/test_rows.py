"""Rows say whether goals are reached, and tables show what a row knows and dashes for the rest."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from tvm_sched.bench import rows
from tvm_sched.bench.rows import Row

LONE = Row("net", "lone", "host", None, 0.0, 1, 2, 2.0, 2.5, 1.9, None, 1)
SPARSE = Row(
    "net", "subp-sparse", "host", 16, 0.75, 1, 1, 2.0, 2.5, 1.9, 3.456, 1_250_000,
    dense_macs=400_000_000, kept_macs=100_000_000, peak_gflops=100.0, time_over_d=0.25, share_of_peak=1.0, goal=0.2,
    file_limit_bytes=1_300_000, workspace_bytes=1_000_000, weights_bytes=1_500_000,
)  # fmt: skip


def test_a_goal_is_reached_at_most_at_it():
    assert (SPARSE.reached, replace(SPARSE, goal=0.25).reached, LONE.reached) == (False, True, None)


def test_a_file_may_take_its_weights_a_twentieth_more_and_300_kib():
    assert rows.file_limit(1_000_000) == 1_050_000 + 307_200
    assert (SPARSE.small, replace(SPARSE, file_bytes=1_300_001).small, LONE.small) == (True, False, None)


def test_a_table_shows_ratios_and_verdicts_only_where_a_row_has_them():
    sparse, lone = lines(rows.table([SPARSE, LONE]))
    assert (
        " ".join(sparse)
        == "subp-sparse 1x16 75% 1 2.000 2.500 3.46 1.900 0.250 (goal 0.2) NO 100% 1.25 (limit 1.30) yes 2.5"
    )
    assert lone == ["lone", "-", "2", "2.000", "2.500", "-", "1.900", "-", "-", "0.00", "-"]


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, ""),
        ({"core_share": 0.95}, ""),
        ({"steal": 0.0123, "ghz": 4.2, "core_share": 1.0}, "1.2% of the time stolen, 4.20 GHz"),
        ({"core_share": 0.5}, "NOT AT ITS BEST: the core gave 50% of it, so measure again with --until-quiet"),
    ],
)
def test_the_state_of_the_core_is_told_and_a_bad_one_warned_of(known, text):
    assert rows.condition(replace(LONE, **known)) == text


def test_a_table_shows_how_many_calls_were_timed_and_on_how_good_a_core():
    (line,) = lines(rows.table([replace(LONE, core_share=0.987, calls=12)]))
    assert line[-2:] == ["99%", "12"]


def lines(table) -> list[list[str]]:
    """Words of the table's lines that show a row."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(table)
    return [line.replace("│", " ").split() for line in console.export_text().splitlines() if "2.500" in line]


@pytest.mark.parametrize(("passed", "text"), [(None, ""), (True, " (goal 1) yes"), (False, " (goal 1) NO")])
def test_a_verdict_needs_a_limit(passed, text):
    assert rows.verdict(passed, " (goal 1)") == text
