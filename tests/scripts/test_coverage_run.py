"""Cases that end in every way, in worker processes."""

import csv
import os

import coverage_run
import pytest

COLUMNS = ("case", "colour", "verdict", "said")


def judge(case):
    if case == "raises":
        raise KeyError("absent")
    if case == "dies":
        os.abort()
    if case == "hangs":
        while True:
            pass
    if case == "grows":
        held = []
        while True:
            held.append(bytearray(64 << 20))
    return {"verdict": "right", "said": ""}


def refuse(case):
    return {"verdict": "refused", "said": "later"}


@pytest.fixture
def options(tmp_path):
    return coverage_run.Options(tmp_path / "table.csv", seconds=2, gigabytes=0.5)


def verdicts(rows):
    return {row["case"]: row["verdict"] for row in rows}


def test_a_case_that_goes_wrong_is_told_and_the_others_are_judged(options):
    cases = {name: {"colour": "red"} for name in ("raises", "dies", "fine", "hangs", "grows", "fine too")}
    rows = coverage_run.run(cases, judge, COLUMNS, options)
    assert verdicts(rows) == {
        "raises": "traceback",
        "dies": "crashed",
        "fine": "right",
        "hangs": "slow",
        "grows": "large",
        "fine too": "right",
    }
    said = {row["case"]: row["said"] for row in rows}
    assert "KeyError: 'absent' (test_coverage_run.py:" in said["raises"]
    assert "exit code -6" in said["dies"] and "in judge" in said["dies"]
    assert coverage_run.exit_code(rows) == 1
    with open(options.output, newline="") as file:
        table = list(csv.DictReader(file))
    assert sorted(rows, key=lambda row: row["case"]) == table
    assert {row["colour"] for row in table} == {"red"}


def test_a_second_run_judges_only_what_has_no_row_or_is_to_be_retried(options):
    coverage_run.run(["a", "b"], judge, COLUMNS, options)
    assert verdicts(coverage_run.run(["a", "b", "c"], refuse, COLUMNS, options)) == {
        "a": "right",
        "b": "right",
        "c": "refused",
    }
    again = coverage_run.Options(options.output, retry=("refused",))
    assert verdicts(coverage_run.run(["a", "b", "c"], judge, COLUMNS, again)) == dict.fromkeys("abc", "right")


def test_a_row_that_was_cut_off_is_judged_again(options):
    coverage_run.run(["a", "b"], judge, COLUMNS, options)
    whole = options.output.read_text()
    options.output.write_text(whole[: whole.rindex(",right")])
    assert verdicts(coverage_run.run(["a", "b"], refuse, COLUMNS, options)) == {"a": "right", "b": "refused"}


def test_only_chooses_by_part_or_pattern(options):
    cases = ["add int64", "add float32", "addmm float32", "mul float32"]
    some = coverage_run.Options(options.output, only=("add *", "mul"))
    assert coverage_run.asked(cases, some) == ["add int64", "add float32", "mul float32"]


def test_the_summary_groups_sentences_that_differ_in_numbers_and_names(options):
    rows = [
        {"verdict": "refused", "said": "#0: axis 3 of 'x' is long"},
        {"verdict": "refused", "said": "#12: axis 1 of 'y' is long"},
        {"verdict": "right", "said": ""},
    ]
    assert coverage_run.summary(rows).splitlines() == ["2 refused, 1 right", "    2 refused: axis # of '...' is long"]


def test_a_table_of_other_columns_is_left_alone(options):
    options.output.write_text("network,status\nresnet18,ok\n")
    with pytest.raises(SystemExit, match="other columns"):
        coverage_run.run(["a"], judge, COLUMNS, options)
    assert options.output.read_text() == "network,status\nresnet18,ok\n"
