"""`subp tune`: measures kernels for a network's layers and keeps what it finds as records."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.model import load_network, model_options
from subp.cli.options.types import FOLDER, target_option
from subp_contract.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tvm_sched.tuning.farm import Farm
    from tvm_sched.tuning.search import TuningSummary


@click.command("tune")
@click.argument("model")
@model_options()
@target_option
@click.option("--threads", type=click.IntRange(1), help="Threads to measure with [the target's cores].")
@click.option("--records", type=FOLDER, required=True, help="Folder of the tuning log to write, or to add to.")
@click.option("--best", type=FOLDER, help="Folder for the fastest record of each kernel: all that compiling needs.")
@click.option("--trials", type=click.IntRange(1), default=16, show_default=True, help="Measurements a kernel, at most.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Time for the whole search [no limit].")
@click.option("--dense", is_flag=True, help="Tune for --dense builds, which ignore the zeros.")
@click.option("--tracker", metavar="HOST:PORT", help="Measure on boards: the TVM RPC tracker that lists them.")
@click.option("--key", help="The boards to measure on, by the key that they registered with.")
@click.option("--jobs", type=click.IntRange(1), help="Boards to use at once, at most [all].")
@click.option(
    "--wait",
    type=click.FloatRange(0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds without any board that answers, before giving up.",
)
def command(
    model: str,
    settings: dict,
    target: str,
    threads: int | None,
    records: Path,
    best: Path | None,
    trials: int,
    minutes: float | None,
    dense: bool,
    tracker: str | None,
    key: str | None,
    jobs: int | None,
    wait: float,
) -> None:
    """Search for fast kernels for MODEL's layers by measuring them on this machine, or on boards.

    The records hold for every network with layers of the same shapes; a search that was interrupted goes on where it
    stopped. With --tracker and --key kernels are built here for --target and measured on boards; one that fails is
    named and left out until it answers again.
    """
    import tvm_sched
    from subp.cli.terminal import console
    from tvm_sched import targets

    machine = targets.get(target)
    farm = farm_of(tracker, key, jobs, wait)
    network, _ = load_network(model, settings)
    with trial_bar(console()) as progress:
        summary = tvm_sched.tune(
            network.module,
            network.example_input,
            target=machine,
            threads=threads,
            records=records,
            trials=trials,
            minutes=minutes,
            dense=dense,
            farm=farm,
            progress=progress,
        )
    console().print(table(summary))
    for line in farm.summary() if farm else ():
        click.echo(line)
    click.echo(f"{records}: {described(summary)}")
    if best:
        from tvm_sched.records.fastest import write_best

        click.echo(f"{best}: the fastest records of {write_best(records, best)} kernels")


def farm_of(tracker: str | None, key: str | None, jobs: int | None, wait: float) -> "Farm | None":
    """The boards to measure on; None for this machine. Raises UserError for options that lack each other, or if there
    are none.
    """
    if tracker is None and key is None:
        if jobs is not None:
            raise UserError("--jobs is for boards, which --tracker and --key name")
        return None
    if tracker is None or key is None:
        raise UserError("--tracker and --key belong together: where the boards are listed, and which of them to use")
    from tvm_sched.tuning.farm import Farm

    return Farm(tracker, key, jobs, patience_s=wait, say=lambda sentence: click.echo(sentence, err=True))


@contextmanager
def trial_bar(console: "Console") -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on a terminal; gives what `tvm_sched.tune` calls with (trials done, in all, kernel)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total, kernel: bar.update(task, completed=done, total=total, description=kernel)


def table(summary: "TuningSummary") -> "Table":
    """One row a kernel: calls in the network, tiles measured, time a call before and after."""
    from rich.table import Table

    table = Table("kernel")
    for column in ("calls", "measured", "default ms", "best ms"):
        table.add_column(column, justify="right")
    for task in summary.tasks:
        times = (f"{task.default_ms:.4f}", f"{task.best_ms:.4f}")
        table.add_row(task.name, str(task.calls), str(task.measured), *times)
    return table


def described(summary: "TuningSummary") -> str:
    """What the search did, in one line: '9 of 12 kernels, 98 measurements: 1.52 -> 1.40 ms together, in 38 s'."""
    known = [task for task in summary.tasks if isfinite(task.default_ms)]
    before, after = (sum(getattr(task, time) * task.calls for task in known) for time in ("default_ms", "best_ms"))
    measured = f"{sum(task.measured for task in summary.tasks)} measurements"
    failed = f" ({summary.failed} failed, first: {summary.first_error})" if summary.failed else ""
    times = f"{before:.3f} -> {after:.3f} ms together, in {summary.seconds:.0f} s"
    return f"{len(known)} of {len(summary.tasks)} kernels, {measured}{failed}: {times}"
