"""`subp bench`: an artifact's latency, beside other engines on the same network."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.networks import load_network, model_options
from subp.cli.options import INPUT_FILE, Names, Numbers, OutputFile, not_an_input
from subp.errors import UserError

if TYPE_CHECKING:
    from tvm_sched.engines import Engine, Network

ENGINES = ("torch", "onnxruntime", "dense")


@click.command("bench", short_help="Measure the latency of NET.SO beside other engines.")
@click.argument("artifact", metavar="NET.SO", type=INPUT_FILE)
@click.option("--against", type=Names(ENGINES), default=[], help=f"Engines beside it, of {','.join(ENGINES)}.")
@click.option("--model", help="The network that NET.SO was compiled from; --against needs it.")
@model_options("n", "sparsity", "seed")
@click.option("--threads", type=Numbers(), default=[1], help="Thread counts, such as 1,2 [1].")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="For each thread count.")
@click.option("--json", "json_file", type=OutputFile(), help="File for the rows and the machine's state.")
def command(
    artifact: Path,
    against: list[str],
    model: str | None,
    settings: dict,
    threads: list[int],
    seconds: float,
    json_file: Path | None,
) -> None:
    """Measure the latency of NET.SO, in turn with other engines on the same network and input.

    Engines must agree in their outputs before they are compared.
    """
    if against and model is None:
        raise click.UsageError("--against needs --model, the network that NET.SO was compiled from")
    import tvm_sched
    from subp.checkpoint import write_atomically
    from subp.cli.checks import check
    from subp.cli.terminal import console
    from tvm_sched import bench, engines
    from tvm_sched.artifact import check_input

    not_an_input(json_file, artifact, *([model] if model else []))
    rows = []
    compiled = tvm_sched.load(artifact)
    if compiled.manifest["dense"] and "dense" in against:
        raise click.UsageError(f"{artifact} is a dense build itself: leave dense out of --against")
    shape = compiled.manifest["input"]["shape"]
    x = check_input(shape, seed=0)
    network = network_of(model, settings, shape) if model else engines.Network.of_artifact(artifact.stem, compiled)
    for count in threads:
        ready = [engines.ours(compiled, network, count, artifact)]
        ready += [reference(name, network, count) for name in against]
        for engine in ready if model else ():
            engine.prepare()
            check(f"{engine.name} on {model}", engine.call(x), network.reference(x))
        rows += engines.compare(ready, x, seconds)
    machine = bench.MachineState.now()
    console().print(bench.table(rows))
    click.echo(f"{rows[0].network}, batch {rows[0].batch}, on {machine}")
    if json_file:
        content = {"machine": asdict(machine), "measurements": [asdict(row) for row in rows]}
        write_atomically(json_file, json.dumps(content, indent=2).encode())


def network_of(model: str, settings: dict, shape: list[int]) -> "Network":
    """The MODEL, for inputs of `shape` [batch, channels, size, size]. Raises UserError if it takes others."""
    if not model.endswith(".pt2"):
        settings = settings | {"batch": shape[0], "size": shape[-1]}
    network, _ = load_network(model, settings)
    if list(network.example_input.shape) != shape:
        raise UserError(f"NET.SO takes inputs of {shape}, and {model} of {list(network.example_input.shape)}")
    return network


def reference(name: str, network: "Network", threads: int) -> "Engine":
    """The engine of that name, one of ENGINES, ready on the network."""
    import tvm_sched
    from tvm_sched import engines

    if name != "dense":
        return {"torch": engines.pytorch, "onnxruntime": engines.onnxruntime}[name](network, threads)
    built = tvm_sched.compile(network.module, network.example_input, threads=threads, dense=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.so"
        built.save(path)
        return engines.ours(built, network, threads, path)
