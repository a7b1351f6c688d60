"""`subp calibrate`: measures the figures by which kernels and tiles are chosen before anything is tuned."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.output import json_option, write_json
from subp.cli.options.terminal import bar, show
from subp.cli.options.types import Finite, OutputFile, target_option
from subp_contract.errors import require
from subp_contract.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from tvm_sched.bench.calibration.measuring import Finding
    from tvm_sched.bench.calibration.ranking import Ranking
    from tvm_sched.bench.engines import Network


@click.command("calibrate", cls=Compiling)
@target_option
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    help="Target file to write, NAME.json: the target with what was measured, for --target of other commands.",
)
@click.option(
    "--seconds",
    type=Finite(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds of measuring, for each figure.",
)
@click.option(
    "--rank",
    "networks",
    metavar="NETWORKS",
    help="Tell how well the estimates rank the tiles of these networks' kernels, dense and 75 % pruned.",
)
@click.option(
    "--tiles",
    type=click.IntRange(3),
    default=12,
    show_default=True,
    help="Tiles of a kernel that --rank measures.",
)
@json_option("the table and the machine's state")
def command(
    target: str, output: Path | None, seconds: float, networks: str | None, tiles: int, json_file: Path | None
) -> None:
    """Measure this CPU's costs: what steers the choice of kernels and tiles, and stands in no manual.

    Small kernels run on one core, in turn with a loop of multiply-adds that tells a cycle. Figures that swing too much,
    that make no sense, or that no run can show stay as the target has them; the table says which and why.

    With --rank kernels of whole networks run with tiles of many ranks: Kendall's tau tells how far the order of the
    estimates agrees with that of the measurements, from -1 to 1; the regret is the time of the estimate's first tile
    over the least measured.
    """
    if networks:
        require(output is None, "--rank measures no target: leave -o out")
        return rank(target, networks.split(","), tiles, json_file)
    from tvm_sched import targets
    from tvm_sched.bench.calibration.measuring import calibrated
    from tvm_sched.bench.latency import MachineState
    from tvm_sched.targets import file

    require(output is None or output.suffix == ".json", f"{output}: a target file's name ends in .json")
    before = targets.get(target)
    with bar() as progress:
        after, findings = calibrated(before, seconds, progress)
    state = MachineState.now()
    show(table(findings))
    click.echo(f"Cycles in which '{before.name}' starts {before.fma_per_cycle} multiply-adds. On {state}")
    if output:
        named = replace(after, name=output.stem)
        write_atomically(output, (json.dumps(file.content_of(named), indent=2) + "\n").encode())
        click.echo(f"{output}: for --target of compile, tune and advise")
    content = {"target": before.name, "machine": asdict(state), "findings": [asdict(each) for each in findings]}
    write_json(json_file, content)


def rank(target: str, networks: Sequence[str], tiles: int, json_file: Path | None) -> None:
    """How well the estimates rank the tiles of the networks' kernels, on one core of this machine."""
    from tvm_sched import targets
    from tvm_sched.bench.calibration import ranking
    from tvm_sched.bench.latency import MachineState
    from tvm_sched.tuning.search import measurable_here

    core = measurable_here(targets.get(target), threads=1)
    tasks = ranking.tasks_of_all([network_of(name, kept) for name in networks for kept in (1.0, 0.25)], core)
    with bar() as progress:
        rankings = ranking.rank(tasks, core, tiles, progress)
    state, total = MachineState.now(), ranking.agreement(rankings)
    show(ranking_table(rankings))
    click.echo(f"{len(rankings)} kernels: median tau {total.tau:.2f}, {total.share:.0%} of at least {ranking.GOOD}")
    click.echo(f"By the estimates' choice all calls take {total.regret:.3f} times what the best tiles do")
    click.echo(f"On {state}")
    content = {"target": target, "machine": asdict(state), "agreement": asdict(total)}
    write_json(json_file, content | {"rankings": [asdict(each) for each in rankings]})


def network_of(name: str, kept: float) -> "Network":
    """A network with random weights of which so many 1x16 blocks are kept."""
    from subp.deployment.networks import DEFAULTS, load_network

    network, _ = load_network(name, dict.fromkeys(DEFAULTS) | {"sparsity": 1 - kept, "code": None})
    return network


def ranking_table(rankings: Sequence["Ranking"]) -> "Table":
    """One row a kernel."""
    from rich.table import Table

    made = Table("kernel")
    for column in ("calls", "us", "tiles", "tau", "regret", "estimate / measured"):
        made.add_column(column, justify="right")
    for each in rankings:
        tau = "-" if each.tau is None else f"{each.tau:.2f}"
        numbers = (f"{each.microseconds:.1f}", str(each.tiles), tau, f"{each.regret:.2f}", f"{each.bias:.2f}")
        made.add_row(each.name, str(each.calls), *numbers)
    return made


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
