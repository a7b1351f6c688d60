"""`subp compile`: a network as one .so for a CPU."""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.model import load_network, model_options
from subp.cli.options.types import FOLDER, OutputFile, cc_option, not_an_input, target_option
from subp_contract.errors import UserError

if TYPE_CHECKING:
    from tvm_sched import Artifact
    from tvm_sched.targets import Target


@click.command("compile", short_help="Compile MODEL for a CPU into one .so.")
@click.argument("model")
@model_options()
@target_option
@click.option("--threads", type=click.IntRange(1), help="Threads to plan each layer's work for [the target's cores].")
@click.option("--records", type=FOLDER, help="Folder of a tuning log [the target's own].")
@click.option("--dense", is_flag=True, help="Ignore the zeros: a baseline to compare with.")
@click.option("--explain", is_flag=True, help="Print each layer's kernel, and why it was chosen.")
@click.option(
    "--dump",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the module after each phase of the pipeline, to be read.",
)
@cc_option
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    required=True,
    help="The .so file to write; NAME.tar for object files that are not linked.",
)
def command(
    model: str,
    settings: dict,
    target: str,
    threads: int | None,
    records: Path | None,
    dense: bool,
    explain: bool,
    dump: Path | None,
    cc: str | None,
    output: Path,
) -> None:
    """Compile MODEL for a CPU; its 1xN zeros, found in the weights, are skipped where that is faster.

    What runs untuned is told. Where this machine can run the result, it is checked against PyTorch before it is
    written.
    """
    import tvm_sched
    from subp.cli.terminal import console
    from subp.deployment.checks import check_artifact
    from tvm_sched import compiler, targets
    from tvm_sched.deploy import toolchain

    not_an_input(output, model)
    machine = targets.get(target)  # a wrong name, or that nothing links for it, is told before the network is loaded
    if output.suffix != ".tar":
        toolchain.linker(machine, cc)
    network, metadata = load_network(model, settings)
    artifact = tvm_sched.compile(
        network.module, network.example_input, target=machine, threads=threads, records=records, dense=dense, dump=dump
    )
    if explain:
        console().print(artifact.explain_table())
    if schedules := artifact.schedules():
        any_records = compiler.open_records(records, machine) is not None
        click.echo(sources(schedules, machine, artifact.manifest["threads"], any_records))
    artifact.manifest.update({key: metadata[key] for key in ("classes", "preprocessing") if key in metadata})
    checked = ""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        unchecked = Path(folder) / output.name
        artifact.save(unchecked, cc)
        if runs_here(artifact):
            checked = (
                f"; largest error to PyTorch {check_artifact(f'{model}, compiled', loadable(unchecked, artifact)):.1e}"
            )
        os.replace(unchecked, output)
    needs = "object files, to be linked" if output.suffix == ".tar" else toolchain.runs_with(output)
    size = output.stat().st_size / 1e6
    taken = ", ".join(f"input {list(spec.shape)}" for spec in artifact.signature.inputs)
    click.echo(f"{output}: {size:.2f} MB, target {target}, {taken}, {needs}{checked}")


def sources(schedules: Counter[str], target: "Target", threads: int, any_records: bool) -> str:
    """Where the kernels' schedules come from, `Artifact.schedules`, in a line."""
    from tvm_sched.records.recorded import in_words

    phrases = {"default": "the analytic default", "record": "records", "estimate": "estimates"}
    counts = sorted(schedules.items(), key=lambda each: each[0] == "default")  # which comes last
    told = [f"{count} by {source.replace(first := source.split()[0], phrases[first])}" for source, count in counts]
    told[0] = told[0].replace(" ", f" of {schedules.total()} ", 1)
    reason = ""
    if set(schedules) == {"default"}:
        reason = "; no tuning record fits" if any_records else "; there are no tuning records for this target"
    return f"kernels ({target.family}, {in_words(threads)}): {', '.join(told)}{reason}"


def loadable(path: Path, artifact: "Artifact") -> "Artifact":
    """What is in the file, so that machine code is made once; else the artifact that it was written from: an archive is
    not linked, a folder may be mounted without permission to execute, and a file may be for another C library.
    """
    import tvm_sched

    try:
        return artifact if path.suffix == ".tar" else tvm_sched.load(path)
    except UserError:
        return artifact


def runs_here(artifact: "Artifact") -> bool:
    """Whether this machine's CPU has the instructions that the artifact uses."""
    from tvm_sched.deploy.manifest import require_this_machine

    try:
        require_this_machine(artifact.manifest, "it")
    except UserError:
        return False
    return True
