"""What `--help` says, over all commands: sentences, and defaults told in one way."""

import re

import click
import pytest

from subp import cli

OPTIONS = [
    pytest.param(option, id=f"{name} {option.opts[-1]}")
    for name in cli.COMMANDS
    for option in cli.group.get_command(None, name).params
    if isinstance(option, click.Option)
]
FRAGMENTS = ("of", "for", "in", "with", "instead", "not", "added")  # first words of what is no sentence by itself


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_explained_in_a_sentence_and_its_default_after_it(option):
    sentence, _, default = option.help.partition("  [default: ")
    first = re.split(r"[ :]", sentence)[0]
    assert sentence.endswith(".") and first[0].isupper() | first.startswith(".") and first.lower() not in FRAGMENTS
    assert not re.search(r"\[[^\[\]]*\]\.?$", sentence), "a default is told as [default: ...], after the sentence"
    assert not (default and option.show_default), "told twice"
    shown = option.get_help_extra(click.Context(click.Command("x"))).get("default")
    told = option.is_flag or option.required or option.multiple or shown or default
    assert told or not isinstance(option.default, str | int | float)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_a_terminal_of_80_columns(name):
    context = click.Context(cli.group.get_command(None, name), info_name=f"subp {name}", terminal_width=80)
    assert max(map(len, context.get_help().splitlines())) <= 80


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_explained_in_sentences(name):
    text = cli.group.get_command(None, name).help.strip()
    assert text[0].isupper() and text.endswith((".", ":"))
