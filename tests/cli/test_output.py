"""--json and --quiet, of every command alike."""

import json

import click
import pytest

from subp import cli
from subp.cli import doctor


@pytest.fixture
def findings(monkeypatch):
    """The doctor's findings, without a look at the machine."""
    made = {
        "training": [doctor.Finding("train", True, "torch 2")],
        "cross_compiling": [doctor.Finding("compile for boards", False, "no linker", "apt install one")],
    }
    for name in ("training", "compiling", "cross_compiling", "tuning", "benchmarking"):
        monkeypatch.setattr(doctor, name, lambda name=name: iter(made.get(name, [])))


def test_json_goes_to_a_file_and_says_where_it_was_made(findings, tmp_path, capsys):
    assert cli.exit_code(["doctor", "--json", str(tmp_path / "found.json")]) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    assert [each["what"] for each in content["findings"]] == ["torch 2", "no linker"]
    assert content["date"].startswith("20") and {"host", "cpu", "python"} <= content.keys()
    assert content["versions"]["subp"] == "0.1.0"
    assert "torch 2" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["--json -", "--json - -q", "-q --json -"])
def test_json_on_standard_output_stands_alone_there(findings, capsys, line):
    assert cli.exit_code(["doctor", *line.split()]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["findings"][0]["well"] is True
    assert ("torch 2" in told.err) == ("-q" not in line)


def test_quiet_leaves_errors_alone(findings, capsys):
    assert cli.exit_code(["doctor", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.exit_code(["doctor", "-q", "--for", "arm"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "subp: this machine is not ready to compile for boards: no linker\n")


def test_a_job_that_lacks_nothing_is_exit_code_0(findings, capsys):
    assert cli.exit_code(["doctor", "--for", "train"]) == 0
    assert "no linker" not in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_can_be_quiet_once(name):
    for _ in range(2):
        command = cli.group.get_command(click.Context(cli.group), name)
    assert [param.name for param in command.params].count("quiet") == 1


def test_numbers_that_json_lacks_are_null(tmp_path):
    from subp.cli.options.output import write_json

    write_json(tmp_path / "x.json", {"ms": float("nan"), "rows": [{"best": float("inf"), "n": 1}]})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["ms"] is None and content["rows"] == [{"best": None, "n": 1}]
