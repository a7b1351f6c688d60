"""What commands print and write for scripts: --json, with where and by what it was made, and --quiet."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import click

from subp.cli.options.types import OutputFile

STDOUT = Path("-")
_OWN = "subp.stdout"  # in a context's `meta`: standard output as it was


class JsonFile(OutputFile):
    """A file to write, or - for standard output."""

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return STDOUT if str(value) == "-" else super().convert(value, param, ctx)


def json_option(what: str) -> Callable:
    """The option --json, which the command gets as `json_file` and hands to `write_json` with `what` it names."""
    return click.option(
        "--json",
        "json_file",
        type=JsonFile(),
        callback=_aside,
        help=f"File for {what}, with versions, date and machine; - for standard output, where nothing else goes then.",
    )


def write_json(file: Path | None, content: Mapping[str, Any]) -> None:
    """Writes the content and its provenance to the file of --json; nothing without one. NaN and infinities are null."""
    if file is None:
        return
    from subp.common.provenance import provenance
    from subp_contract.files import write_atomically

    text = json.dumps(provenance() | _finite(dict(content)), indent=2, default=str)
    if file == STDOUT:
        click.echo(text, file=click.get_current_context().meta[_OWN])
    else:
        write_atomically(file, text.encode())


def with_quiet(command: click.Command) -> click.Command:
    """The command with an option --quiet, if it has none yet."""
    if all(param.name != "quiet" for param in command.params):
        command.params.append(
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_hush,
                help="Print warnings and errors alone.",
            )
        )
    return command


def _aside(ctx: click.Context, param: click.Parameter, file: Path | None) -> Path | None:
    if file == STDOUT and _OWN not in ctx.meta:  # else it is quiet already
        _send_stdout_to(ctx, sys.stderr)
    return file


def _hush(ctx: click.Context, param: click.Parameter, quiet: bool) -> None:
    if quiet:
        _send_stdout_to(ctx, ctx.with_resource(open(os.devnull, "w")))  # noqa: SIM115, the context closes it


def _send_stdout_to(ctx: click.Context, other: TextIO) -> None:
    ctx.meta.setdefault(_OWN, sys.stdout)
    ctx.with_resource(redirect_stdout(other))


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
