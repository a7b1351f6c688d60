"""`subp calibrate`: measures the figures by which kernels and tiles are chosen before anything is tuned."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.types import OutputFile, target_option
from subp.cli.terminal import console
from subp_contract.errors import require
from subp_contract.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from tvm_sched.bench.calibration.measuring import Finding


@click.command("calibrate")
@target_option
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    help="Target file to write, NAME.json: the target with what was measured, for --target of other commands.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of measuring, for each figure.",
)
@click.option("--json", "json_file", type=OutputFile(), help="File for the table and the machine's state.")
def command(target: str, output: Path | None, seconds: float, json_file: Path | None) -> None:
    """Measure this CPU's costs: what steers the choice of kernels and tiles, and stands in no manual.

    Small kernels run on one core, in turn with a loop of multiply-adds that tells a cycle. Figures that swing too much,
    that make no sense, or that no run can show stay as the target has them; the table says which and why.
    """
    from subp.cli.tune import trial_bar
    from tvm_sched import targets
    from tvm_sched.bench.calibration.measuring import calibrated
    from tvm_sched.bench.latency import MachineState
    from tvm_sched.targets import file

    require(output is None or output.suffix == ".json", f"{output}: a target file's name ends in .json")
    before = targets.get(target)
    with trial_bar(console()) as progress:
        after, findings = calibrated(before, seconds, progress)
    state = MachineState.now()
    console().print(table(findings))
    click.echo(f"Cycles in which '{before.name}' starts {before.fma_per_cycle} multiply-adds. On {state}")
    if output:
        named = replace(after, name=output.stem)
        write_atomically(output, (json.dumps(file.content_of(named), indent=2) + "\n").encode())
        click.echo(f"{output}: for --target of compile, tune and advise")
    if json_file:
        content = {"target": before.name, "machine": asdict(state), "findings": [asdict(each) for each in findings]}
        write_atomically(json_file, json.dumps(content, indent=2).encode())


def table(findings: Sequence["Finding"]) -> "Table":
    """One row a figure: the target's, the measured one, their ratio, and what speaks against it."""
    from rich.table import Table

    made = Table("figure", "unit")
    for column in ("target's", "measured", "ratio", "spread"):
        made.add_column(column, justify="right")
    made.add_column("kept as it is because")
    for each in findings:
        measured = "" if each.measured is None else f"{each.measured:g}"
        ratio = f"{each.measured / each.before:.2f}" if measured and each.before else ""
        spread = "" if each.spread is None else f"{each.spread:.0%}"
        made.add_row(each.figure, each.unit, f"{each.before:g}", measured, ratio, spread, each.kept)
    return made
