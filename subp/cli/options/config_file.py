"""-c FILE.yaml: a command's options in a file, under the flags' names; and what a command ran with, as such a file.

A file says what the command line would, so each value is read by its option's own type. The command line wins.
"""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from subp.cli.options.types import INPUT_FILE
from subp_contract.errors import UserError

CONFIGURED = ("train", "tune", "compile", "bench", "quantize", "evaluate")
OF_A_RUN = ("output", "json_file", "resume", "auto_resume")  # which another run has of its own
GIVEN = "subp.config"  # in a context's `meta`: whether there was a file


def with_config(command: click.Command) -> click.Command:
    """The command with the option --config, if it has none yet."""
    if all(param.name != "config" for param in command.params):
        option = click.Option(
            ["-c", "--config"],
            type=INPUT_FILE,
            metavar="FILE.yaml",
            is_eager=True,  # before those that it speaks of
            expose_value=False,
            callback=_read,
            help="Options from a file, under their long names and those of the arguments; the command line wins.",
        )
        command.params.append(option)
    return command


def resolved(ctx: click.Context, changes: Mapping[str, Any] | None = None, without: Collection[str] = ()) -> str:
    """YAML of all that the command runs with, for -c of another time. changes: of parameters by name, where the command
    settled on others; without: what has been settled by them.
    """
    import yaml

    values = ctx.params | (changes or {})
    content = {
        _key(param): _plain(param, values[param.name])
        for param in ctx.command.params
        if param.name not in (*OF_A_RUN, *without) and values.get(param.name) not in (None, (), [])
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def write_resolved(output: Path, ctx: click.Context) -> None:
    """Writes `resolved` beside a command's output, as OUTPUT.yaml, if its options came from a file."""
    if GIVEN in ctx.meta:
        from subp_contract.files import write_atomically

        write_atomically(output.with_name(f"{output.name}.yaml"), resolved(ctx).encode())


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes what the file says the defaults of the command's options. Raises UserError, naming file and key."""
    if path is None:
        return
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold lines OPTION: VALUE, such as `threads: 1`")
    known = {_key(each): each for each in ctx.command.params if each is not param}
    defaults = {}
    for key, value in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"see {ctx.command_path} --help"
            raise UserError(f"{path}: {key} is no option of {ctx.command_path} that a file may give; {hint}")
        if value is not None:
            defaults[known[name].name] = _as_given(ctx, known[name], value, f"{path}: {key}")
    ctx.default_map = defaults
    ctx.meta[GIVEN] = path


def _key(param: click.Parameter) -> str:
    """The parameter's name in a file: the flag's, or the argument's."""
    longest = max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name)
    return longest.lstrip("-").replace("_", "-")


def _as_given(ctx: click.Context, param: click.Parameter, value: Any, where: str) -> Any:
    """What the command line would hold in place of a file's value. Raises UserError for one that the option refuses."""
    is_flag = isinstance(param, click.Option) and param.is_flag
    if is_flag != isinstance(value, bool):
        raise UserError(f"{where} is {value!r}: it must be {'true or false' if is_flag else 'a value, not a flag'}")
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict | list) for each in value)):
        raise UserError(f"{where} is {value!r}: a value is needed, or a list of values")
    if not is_flag:
        many = param.multiple or param.nargs != 1
        texts = [str(each) for each in (value if isinstance(value, list) else [value])]
        value = texts if many else ",".join(texts)
    try:
        param.type_cast_value(ctx, value)
    except click.UsageError as error:
        raise UserError(f"{where}: {error.message.rstrip('.')}") from error
    return value


def _plain(param: click.Parameter, value: Any) -> Any:
    """A parameter's value as YAML has it, such that `_as_given` takes it."""
    if param.multiple or param.nargs != 1:
        return [_plain_one(param, each) for each in value]
    return _plain_one(param, value)


def _plain_one(param: click.Parameter, value: Any) -> Any:
    text = getattr(param.type, "text", str)
    return value if isinstance(value, bool | int | float | list) else text(value)
