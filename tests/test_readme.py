"""What the README shows runs as it stands, and names commands and options that there are."""

import re
from pathlib import Path

import click
import pytest

from subp import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
README = PAGES[0].read_text()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_a_snippet_runs_as_it_stands(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    expected = names["model"].eval()(names["x"][:1])
    assert abs(names["y"] - expected).max() < 1e-4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_are_named_exist(page):
    """`subp COMMAND ... --option ...`, in backticks or at the beginning of an indented line."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    lines = re.findall(r"`subp ([^`\n]+)`", text) + re.findall(r"^(?: {4}|)subp ([a-z].*)$", text, re.MULTILINE)
    for line in lines:
        name, *words = line.split()
        command = cli.group.get_command(click.Context(cli.group), name) if name in cli.COMMANDS else None
        if command is None:
            assert not re.fullmatch(r"[a-z]+", name), f"{page.name}: `subp {line}` names no command"
            continue
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
        given = {re.split(r"[=),.;:]", word)[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= known, f"{page.name}: `subp {line}`"
