"""The command line `subp`. Each command is a module here, imported when it is called; heavy imports stand inside the
commands.

May import everything; nothing imports it. Commands turn options into calls of the library and results into lines: what
another program could want stands below, in subp.deployment and subp.training.

Exit codes: 0 done; 1 a check failed (the outputs of two stages differ); 2 the user can mend it (one sentence on
stderr); 130 interrupted. Anything else is a bug, and keeps its traceback.
"""

import errno
import gc
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from subp.cli.options.config_file import CONFIGURED, with_config
from subp.cli.options.output import with_quiet
from subp_contract.documents import shown
from subp_contract.errors import CheckFailed, Notice, UserError

COMMANDS = (
    "quickstart",
    "train",
    "convert",
    "inspect",
    "export",
    "quantize",
    "compile",
    "bundle",
    "tune",
    "bench",
    "calibrate",
    "advise",
    "run",
    "evaluate",
    "report",
    "doctor",
)

# What a user can mend among the system's errors: paths, permissions, space.
MENDABLE = {
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
}

FULL_COLLECTIONS = 100  # one in so many of Python's collections walks all objects; of PyTorch and TVM a million stay
LONGEST = 2000  # letters of a sentence, which may name what a file holds


class Commands(click.Group):
    """Knows its commands by name and imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = with_quiet(importlib.import_module(f"subp.cli.{name}").command)
        return with_config(command) if name in CONFIGURED else command


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Commands, invoke_without_command=True, context_settings=CONTEXT)
@click.version_option(package_name="subp")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Train uniform 1xN block-sparse networks and deploy them so that FLOPs saved become time saved on CPUs.

    Start with `subp quickstart`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line (default: the process's own) and exits."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no error
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding, stream.errors) != ("utf-8", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS)  # else a fifth of a short command's time
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return guarded(lambda: group.main(arguments, prog_name="subp", standalone_mode=False))


def guarded(work: Callable[[], int | None]) -> int:
    """Runs what a command does and returns its exit code; what went wrong is told in a sentence, as are notices."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*LeafSpec", category=FutureWarning
        )  # torch.export's, of its own code
        warnings.simplefilter("always", Notice)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which warns where its cache cannot be written
        warnings.showwarning = partial(_show_warning, warnings.showwarning, set())
        return _exit_code(work)


def _exit_code(work: Callable[[], int | None]) -> int:
    try:
        return work() or 0
    except click.Abort:
        return _fail("interrupted", 130)
    except click.UsageError as error:
        help_of = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        return _fail(error.format_message().rstrip(".") + help_of, 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except CheckFailed as error:
        return _fail(str(error), 1)
    except UserError as error:
        return _fail(str(error), 2)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), 2)


def _show_warning(show: Callable, said: set[str], message: Warning, category: type[Warning], *rest: Any) -> None:
    """One of ours as a sentence, if it has not been `said`: a network may be built several times. Others as Python
    shows them.
    """
    if not issubclass(category, Notice):
        show(message, category, *rest)
    elif str(message) not in said:
        said.add(str(message))
        click.echo(f"subp: warning: {shown(str(message), LONGEST)}", err=True)


def _fail(sentence: str, code: int) -> int:
    click.echo(f"subp: {shown(sentence, LONGEST)}", err=True)
    return code
