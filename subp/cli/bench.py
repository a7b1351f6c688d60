"""`subp bench`: an artifact's latency, beside other engines on the same network; or a whole suite's."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.model import load_network, model_options
from subp.cli.options.output import STDOUT, json_option, write_json
from subp.cli.options.types import (
    FOLDER,
    INPUT_FILE,
    WEIGHTS,
    Finite,
    Names,
    Numbers,
    not_an_input,
)
from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder

if TYPE_CHECKING:
    from tvm_sched.bench.engines import Engine, Network

ENGINES = ("torch", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8", "ncnn", "dense")


@click.command(
    "bench", cls=Compiling, short_help="Measure the latency of NET.SO beside other engines, or of a whole suite."
)
@click.argument("artifact", metavar="[NET.SO]", type=INPUT_FILE, required=False)
@click.option(
    "--suite", help="Suite to measure in place of NET.SO: a shipped suite's name, or a JSON file like theirs."
)
@click.option("--against", type=Names(ENGINES), default=[], help=f"Engines beside it, of {','.join(ENGINES)}.")
@click.option("--model", help="The network that NET.SO was compiled from; --against needs it.")
@model_options("n", "sparsity", "seed", "code")
@click.option(
    "--records", type=FOLDER, help="Folder of a tuning log, for what is compiled here.  [default: the target's own]"
)
@click.option("--precision", help="Precision of our builds in a suite, as `subp compile` takes it.  [default: float32]")
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    help="Numbers to store our builds' weights in, in a suite, as `subp compile` takes it.  [default: float32]",
)
@click.option(
    "--target",
    help="CPU that our builds in a suite are compiled for; others use all that the CPU has.  [default: host]",
)
@click.option("--threads", type=Numbers(), help="Thread counts, such as 1,2.  [default: 1]")
@click.option(
    "--seconds",
    type=Finite(0.1),
    help="Seconds of measuring for each thread count; in a suite, for each engine.  [default: 10, or the suite's]",
)
@click.option(
    "--until-quiet",
    "minutes",
    type=Finite(0),
    default=0.0,
    show_default=True,
    help="Go on for up to so many minutes, until nobody disturbed the core for long enough; only those calls count.",
)
@click.option("--layers", is_flag=True, help="Print where the time goes, layer by layer.")
@json_option("the rows and the machine's state")
def command(
    artifact: Path | None,
    suite: str | None,
    against: list[str],
    model: str | None,
    settings: dict,
    records: Path | None,
    precision: str | None,
    weights: str | None,
    target: str | None,
    threads: list[int] | None,
    seconds: float | None,
    minutes: float,
    layers: bool,
    json_file: Path | None,
) -> None:
    """Measure the latency of NET.SO, in turn with other engines on the same network and input, or that of all networks
    of a suite.

    Engines must agree in their outputs before they are compared. The machine's fp32 peak is measured in turn with them:
    "time / D" is the time over D, what a dense network takes by direct convolution at that peak, in vectors as wide as
    the target's; "of peak" is how much of it the kept blocks' multiply-adds reach (Winograd needs fewer, so it may
    exceed 100 %). A second loop, bound by loads from the first cache, shows what a neighbour on the same physical core
    takes away: "core" is the share of their best that both loops reached meanwhile, the worse of the two.

    Engines other than ours are dense; int8 is by ONNX Runtime's static quantiser, per channel, calibrated on random
    images. All but torch and onnxruntime are the extra 'peers': pip install 'subp-cpu[peers]'.

    \b
    Suites: networks, peers, small_n, batch, threads, layers, quick.
    Their JSON is written anew after each network.
    """
    if (artifact is None) == (suite is None):
        raise click.UsageError("give either NET.SO or --suite")
    if suite:
        if json_file == STDOUT:
            raise click.UsageError("a suite writes its JSON anew after each network: give --json a file")
        own = {"--model": model, "--threads": threads, "--layers": layers or None}
        own |= {f"--{name}": value for name, value in settings.items()}
        if given := [name for name, value in own.items() if value is not None]:
            raise click.UsageError(f"a suite says itself what it measures: leave out {' and '.join(given)}")
        run_suite(suite, against, target, precision, weights, records, seconds, minutes, json_file)
    else:
        if target is not None or precision is not None or weights is not None:
            raise click.UsageError(
                "NET.SO was compiled for a target, in a precision: leave --target, --precision and --weights out"
            )
        if against and model is None:
            raise click.UsageError("--against needs --model, the network that NET.SO was compiled from")
        run_one(
            artifact, against, model, settings, records, threads or [1], seconds or 10.0, minutes, layers, json_file
        )


def run_suite(
    name: str,
    against: list[str],
    target: str | None,
    precision: str | None,
    weights: str | None,
    records: Path | None,
    seconds: float | None,
    minutes: float,
    json_file: Path | None,
) -> None:
    """Measures a suite, given by its name or file."""
    from tvm_sched.bench import suite

    chosen = suite.read(name)
    if "dense" in against:
        raise click.UsageError("a suite has its dense builds as sparsity 0: leave dense out of --against")
    from subp.cli.options.terminal import bar, console, show
    from subp.deployment.quantised import require_precision
    from subp.deployment.suite_run import Settings, SuiteRun, reached
    from tvm_sched import targets
    from tvm_sched.bench import latency, rows

    told = target or "host", precision or "float32", weights or "float32"
    require_precision(told[1], told[2], None, targets.get(told[0]))
    settings = Settings(against, told[0], records, seconds or chosen.seconds, minutes, json_file, *told[1:])
    run, terminal, results = SuiteRun(chosen, settings), console(), []
    click.secho(f"Suite {chosen.name}: {chosen.about}", bold=True)
    for number, case in enumerate(chosen.cases, 1):
        click.secho(f"{case} ({number} of {len(chosen.cases)})", bold=True)
        with bar(measuring=True) as progress:
            progress(0, 1, str(case))
            measured = run.measure(case, partial(_named, progress, str(case)))
        results.append((case, measured.ours))
        first, cpus = measured.rows[0], ", ".join(map(str, measured.cpus))
        show(rows.table(measured.rows), terminal)
        click.echo(
            f"   peak {first.peak_gflops:.1f} GFLOP/s (median {first.peak_median_gflops:.1f}), "
            f"on CPU {cpus}{measured.state.noise}"
        )
        if state := rows.condition(first):
            click.echo(f"   {state}")
    call = run.measure_overhead()
    show(suite.summary(results), terminal)
    click.echo(reached([row for _, ours in results for row in ours.values()]))
    click.echo(f"Calls: {call}")
    click.echo(f"On {latency.MachineState.now()}")
    if run.content["not_quiet"]:
        click.echo(f"The machine was not quiet at: {'; '.join(run.content['not_quiet'])}")
    if json_file and json_file.suffix == ".json":
        from subp.deployment.report import content, page
        from subp_contract.files import write_atomically

        html = json_file.with_suffix(".html")
        write_atomically(html, page.page(content.read([json_file]), f"Suite {chosen.name}").encode())
        click.echo(f"{html}: all of it on one page")


def _named(progress: Callable[[int, int, str], None], what: str, done: int, total: int) -> None:
    progress(done, total, what)


def run_one(
    path: Path,
    against: list[str],
    model: str | None,
    settings: dict,
    records: Path | None,
    threads: list[int],
    seconds: float,
    minutes: float,
    layers: bool,
    json_file: Path | None,
) -> None:
    """Measures the artifact in `path`, beside the engines `against` on the MODEL."""
    from subp.cli.options.terminal import bar, say, show, working
    from subp.deployment.checks import engine_check
    from subp.deployment.suite_run import labelled
    from tvm_sched.bench import engines, latency, memory, profile, rows
    from tvm_sched.deploy.manifest import allowed_by_rounding
    from tvm_sched.signature import check_inputs

    not_an_input(json_file, path, *([model] if model else []))
    measured, profiles = [], []
    for count in threads:
        compiled, grown = memory.load_measured(path, count)
        if compiled.manifest["dense"] and "dense" in against:
            raise click.UsageError(f"{path} is a dense build itself: leave dense out of --against")
        if not compiled.signature.is_plain:
            raise UserError(f"{path} takes other inputs than one tensor: only networks of one can be compared")
        (x,) = check_inputs(compiled.signature.inputs, seed=0)
        shape = list(x.shape)
        word = compiled.manifest["precision"]
        with working(f"preparing {', '.join(['subp', *against])}"):
            network = network_of(model, settings, shape) if model else engines.Network.of_artifact(path.stem, compiled)
            ready = [replace(engines.ours(compiled, network, path), rss_growth_bytes=grown)]
            ready += [reference(name, network, count, records, word) for name in against]
            for engine in ready if model else ():
                engine.prepare()
                stage, allowed = f"{engine.name} on {model}", allowed_by_rounding(compiled.manifest)
                engine_check(engine, stage, engine.call(x), network.reference(x), allowed)
        what = f"measuring {len(ready)} engines in turn, with {count} threads"
        with bar(measuring=True) as progress:
            progress(0, 1, what)
            measured += engines.compare(ready, x, seconds, minutes, partial(_named, progress, what))
        if layers:
            peak = measured[-len(ready)].peak_gflops
            profiles.append((measured[-len(ready)], profile.profile(compiled, x, peak, count)))
    machine = latency.MachineState.now()
    show(rows.table(measured))
    for _, each in profiles:
        show(profile.table(each))
    first = measured[0]
    say(f"{first.network}, batch {first.batch}, peak {first.peak_gflops:.1f} GFLOP/s, on {machine}")
    if state := rows.condition(first):
        click.echo(state)
    content = {"machine": asdict(machine), "measurements": [asdict(row) for row in measured]}
    content |= {"profiles": [labelled(row, each) for row, each in profiles]} if layers else {}
    write_json(json_file, content)


def network_of(model: str, settings: dict, shape: list[int]) -> "Network":
    """The MODEL, for inputs of `shape` [batch, channels, size, size]. Raises UserError if it takes others."""
    if not model.endswith(".pt2"):
        settings = settings | {"batch": shape[0], "size": shape[-1]}
    network, _ = load_network(model, settings)
    given = list(network.only_input().shape)
    if model.endswith(".pt2") and given[0] != shape[0] and given[1:] == shape[1:]:
        with suppress(UserError):  # of a program for one size, whose inputs are told below
            network, _ = load_network(model, settings | {"batch": shape[0]})
    if list(network.only_input().shape) != shape:
        raise UserError(f"NET.SO takes inputs of {shape}, and {model} of {given}")
    return network


def reference(name: str, network: "Network", threads: int, records: Path | None, precision: str) -> "Engine":
    """The engine of that name, one of ENGINES, ready on the network; our dense build in that precision."""
    import tvm_sched
    from tvm_sched.bench import engines

    if name != "dense":
        return engines.REFERENCES[name](network, threads)
    options = {"threads": threads, "records": records, **network.options(precision)}
    built = tvm_sched.compile(network.module, network.example_input, dense=True, **options)
    with scratch_folder() as folder:
        path = folder / "dense.so"
        built.save(path)
        return engines.ours(built, network, path)
