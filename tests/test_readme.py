"""README and docs name commands and options that there are. That their Python runs is in test_snippets.py."""

import re
from pathlib import Path

import click
import pytest

from subp import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


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
