"""`subp compile`: a network as one .so for a CPU."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.config_file import write_resolved
from subp.cli.options.model import load_network, model_options
from subp.cli.options.output import json_option, write_json
from subp.cli.options.types import (
    FOLDER,
    THREADS,
    OutputFile,
    Shapes,
    calibrate_option,
    cc_option,
    not_an_input,
    precision_option,
    target_option,
    weights_option,
)
from subp.deployment import networks
from subp_contract import files
from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder

if TYPE_CHECKING:
    from torch import Tensor

    from tvm_sched.targets import Target


# What the longest steps take of ResNet-18, for the bar, and what each of the others does.
SECONDS = {"export": 1.5, "select_kernels": 1.0, "schedule_functions": 0.3, "machine_code": 2.8, "check": 0.8}
SECONDS_OF_OTHERS = 0.1


@click.command("compile", cls=Compiling, short_help="Compile MODEL for a CPU into one .so.")
@click.argument("model")
@model_options()
@target_option
@precision_option
@calibrate_option
@click.option("--threads", type=THREADS, help="Threads to plan each layer's work for.  [default: the target's cores]")
@click.option("--records", type=FOLDER, help="Folder of a tuning log.  [default: the target's own]")
@click.option(
    "--shape",
    "shapes",
    type=Shapes(),
    multiple=True,
    help="Shape of the input, such as 1x3x224x224 (several inputs: with commas); give it again for a network of "
    "several shapes, which share the weights.  [default: MODEL's own]",
)
@click.option("--dense", is_flag=True, help="Ignore the zeros: a baseline to compare with.")
@click.option("--no-check", is_flag=True, help="Do not hold what is compiled against PyTorch.")
@click.option("--no-winograd", is_flag=True, help="Do without Winograd's algorithm: slower, and rounds less.")
@weights_option
@json_option("the layers and their kernels, and what the check found")
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
    type=OutputFile(".so", ".tar"),
    required=True,
    help="The .so file to write; NAME.tar for object files that are not linked.",
)
def command(
    model: str,
    settings: dict,
    target: str,
    precision: str,
    calibrate: str | None,
    threads: int | None,
    records: Path | None,
    shapes: tuple,
    dense: bool,
    no_check: bool,
    no_winograd: bool,
    weights: str,
    json_file: Path | None,
    explain: bool,
    dump: Path | None,
    cc: str | None,
    output: Path,
) -> None:
    """Compile MODEL for a CPU; its 1xN zeros, found in the weights, are skipped where that is faster.

    What runs untuned is told. Before it is written the result is held against PyTorch on two inputs, one for another
    CPU in this machine's instructions. Where it departs, the operator that does so first is told, exit code 1.
    """
    import tvm_sched
    from subp.cli.options.terminal import say, show, staged
    from subp.deployment.checks import check_written
    from subp.deployment.quantised import require_precision
    from tvm_sched import compiler, targets
    from tvm_sched.deploy import toolchain

    not_an_input(output, model)
    machine = targets.get(target)  # a wrong name, or that nothing links for it, is told before the network is loaded
    require_precision(precision, weights, calibrate, machine)  # and likewise
    if output.suffix != ".tar":
        linker = toolchain.linker(machine, cc)
        if cc:
            toolchain.try_out(linker)
    source, example, metadata = opened(model, settings, shapes)
    calibration = batches_of(precision, calibrate, model, source, example, metadata)
    with staged(dict.fromkeys(compiler.steps(), SECONDS_OF_OTHERS) | SECONDS, what=f"compiling {model}: ") as reached:
        artifact = tvm_sched.compile(
            source,
            example,
            target=machine,
            threads=threads,
            records=records,
            dense=dense,
            dump=dump,
            check=not no_check,
            winograd=not no_winograd,
            precision=precision,
            calibration=calibration,
            weights=weights,
            shapes=shapes or None,
            progress=lambda done, total, step: reached(step, 1),
        )
    check, precision = artifact.manifest["check"], artifact.manifest["precision"]
    if artifact.manifest["decision"]:
        click.echo(artifact.manifest["decision"])
    if explain:
        show(artifact.explain_table())
        for note in (*artifact.manifest["remarks"], *check["notes"]):
            say(note)
    if schedules := artifact.schedules():
        any_records = compiler.open_records(records, machine) is not None
        click.echo(sources(schedules, machine, artifact.manifest["threads"], any_records))
    artifact.manifest.update({key: metadata[key] for key in ("classes", "preprocessing") if key in metadata})
    with scratch_folder(output) as folder:
        unchecked = folder / output.name
        artifact.save(unchecked, cc)
        if check["verified"]:
            check_written(unchecked, artifact)
        files.put(unchecked, output)
    write_resolved(output, click.get_current_context())
    needs = "object files, to be linked" if output.suffix == ".tar" else toolchain.runs_with(output)
    size = output.stat().st_size / 1e6
    checked = f"largest error to PyTorch {check['error']:.1e}" if check["verified"] else check["notes"][0]
    taken = "; ".join(
        ", ".join(f"input {list(spec.shape)}" for spec in shape.signature.inputs) for shape in artifact.shapes
    )
    numbers = "" if precision == "float32" else f", {precision}"
    click.echo(f"{output}: {size:.2f} MB, target {target}{numbers}, {taken}, {needs}; {checked}")
    told = {name: artifact.manifest[name] for name in ("precision", "threads", "dense", "memory", "layers")}
    found = {name: check[name] for name in ("verified", "error", "tolerance", "notes")}
    write_json(
        json_file, {"file": str(output), "bytes": output.stat().st_size, "target": target, "check": found} | told
    )


def opened(model: str, settings: dict, shapes: tuple) -> tuple[Any, Any, dict]:
    """(the network that MODEL stands for, its example inputs, metadata); an ONNX file of given shapes as it is."""
    if shapes and model.endswith(".onnx"):
        networks.refuse(settings, settings, "--shape says it all")
        return model, None, {}
    network, metadata = load_network(model, settings)
    return network.module, network.example_input, metadata


def batches_of(
    precision: str, data: str | None, model: str, source: Any, example: Any, metadata: dict
) -> list["Tensor"] | None:
    """Batches of inputs to calibrate on, as `quantised.for_precision` has them."""
    from subp.deployment import quantised
    from tvm_sched.bench.engines import Network

    if not isinstance(source, str):
        network = Network.of(model, source, example)
        return quantised.for_precision(precision, data, model, network, metadata, click.echo)
    if data:
        raise UserError("--calibrate is for a network of one shape: leave out --shape, or quantise the file first")
    return None


def sources(schedules: Counter[str], target: "Target", threads: int, any_records: bool) -> str:
    """Where the kernels' schedules come from, `Artifact.schedules`, in a line."""
    phrases = {"default": "the analytic default", "record": "records", "estimate": "estimates"}
    counts = sorted(schedules.items(), key=lambda each: each[0] == "default")  # which comes last
    told = [f"{count} by {source.replace(first := source.split()[0], phrases[first])}" for source, count in counts]
    told[0] = told[0].replace(" ", f" of {schedules.total()} ", 1)
    reason = ""
    if set(schedules) == {"default"}:
        reason = "; no tuning record fits" if any_records else "; there are no tuning records for this target"
    return f"kernels ({target.family}, {threads} thread{'s' * (threads != 1)}): {', '.join(told)}{reason}"
