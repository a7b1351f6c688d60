"""`subp tune`: measures kernels for a network's layers and keeps what it finds as records."""

from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.model import load_network, model_options
from subp.cli.options.output import json_option, write_json
from subp.cli.options.types import (
    FOLDER,
    THREADS,
    Finite,
    calibrate_option,
    precision_option,
    target_option,
    weights_option,
)
from subp_contract.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from rich.table import Table

    from tvm_sched.tuning.farm import Farm
    from tvm_sched.tuning.search import TuningSummary
    from tvm_sched.tuning.tiles import Named


@click.command("tune", cls=Compiling)
@click.argument("model", required=False)
@model_options()
@target_option
@click.option("--threads", type=THREADS, help="Threads to measure with.  [default: the target's cores]")
@click.option("--records", type=FOLDER, help="Folder of the tuning log to write, or to add to.")
@click.option("--best", type=FOLDER, help="Folder for the fastest record of each kernel: all that compiling needs.")
@click.option(
    "--merge",
    type=FOLDER,
    multiple=True,
    help="Put the records of this folder, and of more where it is repeated, into the folder of --best, the fastest of "
    "each kernel and CPU model, in place of measuring a MODEL.",
)
@click.option("--trials", type=click.IntRange(1), default=16, show_default=True, help="Tiles of a kernel, at most.")
@click.option("--minutes", type=Finite(0, min_open=True), help="Minutes for the whole search.  [default: no limit]")
@click.option("--dense", is_flag=True, help="Tune for --dense builds, which ignore the zeros.")
@precision_option
@calibrate_option
@weights_option
@click.option("--tracker", metavar="HOST:PORT", help="Measure on boards: the TVM RPC tracker that lists them.")
@click.option("--key", help="The boards to measure on, by the key that they registered with.")
@click.option("--jobs", type=click.IntRange(1), help="Boards to use at once, at most.  [default: all]")
@click.option(
    "--wait",
    type=Finite(0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds without any board that answers, before giving up.",
)
@json_option("what was measured")
def command(
    model: str | None,
    settings: dict,
    target: str,
    threads: int | None,
    records: Path | None,
    best: Path | None,
    merge: tuple[Path, ...],
    trials: int,
    minutes: float | None,
    dense: bool,
    precision: str,
    calibrate: str | None,
    weights: str,
    tracker: str | None,
    key: str | None,
    jobs: int | None,
    wait: float,
    json_file: Path | None,
) -> None:
    """Search for fast kernels for MODEL's layers by measuring them on this machine, or on boards.

    Each layer is measured in the forms worth trying (kernel, block size, Winograd's variant, space-to-depth), as the
    network has it, and the kernels of the fastest forms with several tiles. What is estimated best is measured too, and
    stays unless beaten by more than 3 %. The records hold for every network with layers of the same shapes; a search
    that was interrupted goes on where it stopped. With --tracker and --key kernels are built here for --target and
    measured on boards; one that fails is named and left out until it answers again.

    With --merge folders of records become one; a compilation prefers those of its own CPU's model.
    """
    if merge:
        merged(merge, best, model or records)
        return
    if model is None or records is None:
        raise UserError("name a MODEL to tune and the folder of --records to write; or folders to --merge")

    import tvm_sched
    from subp.cli.options.terminal import bar, show
    from subp.deployment import quantised
    from tvm_sched import targets

    machine = targets.get(target)
    quantised.require_precision(precision, weights, calibrate, machine)
    farm = farm_of(tracker, key, jobs, wait)
    network, metadata = load_network(model, settings)
    calibration = quantised.for_precision(precision, calibrate, model, network, metadata, click.echo)
    with bar() as progress:
        summary = tvm_sched.tune(
            network.module,
            network.example_input,
            target=machine,
            threads=threads,
            records=records,
            trials=trials,
            minutes=minutes,
            dense=dense,
            precision=precision,
            calibration=calibration,
            weights=weights,
            farm=farm,
            progress=progress,
        )
    if summary.forms:
        show(forms_table(summary))
    show(table(summary))
    for line in farm.summary() if farm else ():
        click.echo(line)
    click.echo(f"{records}: {described(summary)}")
    write_json(
        json_file,
        {"target": target, "precision": precision, "weights": weights, "records": str(records), **as_json(summary)},
    )
    if best:
        from tvm_sched.records.fastest import write_best

        click.echo(f"{best}: the fastest records of {write_best(records, best)} kernels")
    require_measured(summary)


def require_measured(summary: "TuningSummary") -> None:
    """Raises CheckFailed where every tile of a kernel failed: it stays untuned, and another run would fail again."""
    failed = [layers(each.task) for each in summary.tasks if each.best_ms == inf]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise CheckFailed(f"no tile of {failed[0]}{more} could be built and run: {summary.first_error}")


def merged(folders: tuple[Path, ...], best: Path | None, other: str | Path | None) -> None:
    """Merges folders of records. Raises UserError where the command line says something else besides."""
    if best is None or other is not None:
        raise UserError("--merge puts records into the folder of --best, and takes neither a MODEL nor --records")
    from tvm_sched.records.fastest import merge

    click.echo(f"{best}: the fastest records of {merge(folders, best)} kernels")


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


def table(summary: "TuningSummary") -> "Table":
    """One row a kernel: its layers, calls in the network, tiles measured, time a call before and after."""
    from rich.table import Table

    table = Table("layer", "shape", "kernel")
    for column in ("calls", "tiles", "default ms", "best ms"):
        table.add_column(column, justify="right")
    for result in summary.tasks:
        task = result.task
        times = (f"{ms:.4f}" if isfinite(ms) else "-" for ms in (result.default_ms, result.best_ms))
        table.add_row(layers(task), task.shape, task.kernel, str(task.calls), str(result.measured), *times)
    return table


def layers(task: "Named") -> str:
    """A kernel's layers in words; its function's name where it computes none, as a product in attention."""
    if not task.layers:
        return task.name
    more = len(task.layers) - 1
    return task.layers[0] + (f" and {more} more" if more else "")


def forms_table(summary: "TuningSummary") -> "Table":
    """One row a layer that was measured in several forms: the form it takes, and the milliseconds of each."""
    from rich.table import Table

    table = Table("layer", "shape", "by estimate", "takes", "ms of each form")
    for each in summary.forms:
        times = ", ".join(f"{form} {ms:.4f}" for form, ms in sorted(each.ms.items(), key=lambda item: item[1]))
        table.add_row(each.layer, each.shape, each.first, each.chosen, times)
    return table


def as_json(summary: "TuningSummary") -> dict:
    """The rows of the tables, for --json."""
    kernels = [
        {
            "layers": list(each.task.layers),
            "shape": each.task.shape,
            "kernel": each.task.kernel,
            "calls": each.task.calls,
            "measured": each.measured,
            "default_ms": each.default_ms,
            "best_ms": each.best_ms,
        }
        for each in summary.tasks
    ]
    forms = [{"layer": each.layer, "shape": each.shape, "takes": each.chosen, "ms": each.ms} for each in summary.forms]
    counts = {"built": summary.built, "failed": summary.failed, "seconds": summary.seconds}
    return {"kernels": kernels, "forms": forms, **counts}


def described(summary: "TuningSummary") -> str:
    """What the search did, in one line: '9 of 12 kernels, 98 tiles measured: 1.52 -> 1.40 ms together, in 38 s'."""
    known = [each for each in summary.tasks if isfinite(each.default_ms)]
    before, after = (sum(getattr(each, time) * each.task.calls for each in known) for time in ("default_ms", "best_ms"))
    forms = f"{len(summary.forms)} layers in several forms, " if summary.forms else ""
    measured = f"{sum(each.measured for each in summary.tasks)} tiles measured"
    if not summary.built and len(known) == len(summary.tasks):
        measured += " before, nothing left to do"
    failed = f" ({summary.failed} failed, first: {summary.first_error})" if summary.failed else ""
    times = f": {before:.3f} -> {after:.3f} ms together" if known else ""
    return f"{forms}{len(known)} of {len(summary.tasks)} kernels, {measured}{failed}{times}, in {summary.seconds:.0f} s"
