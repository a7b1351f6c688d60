"""`subp export`: the folded network as ONNX, or as a program of torch.export."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.model import load_network, model_options
from subp.cli.options.types import OutputFile, not_an_input

if TYPE_CHECKING:
    from tvm_sched.bench.engines import Network


@click.command("export", short_help="Write MODEL as an ONNX file, checked against PyTorch, or as a .pt2.")
@click.argument("model")
@model_options()
@click.option(
    "-o", "--output", type=OutputFile(".onnx", ".pt2"), required=True, help="The .onnx or .pt2 file to write."
)
def command(model: str, settings: dict, output: Path) -> None:
    """Write MODEL as an ONNX file, zeros in place, once its output agrees with PyTorch's; or as a program of
    torch.export, a .pt2. Of a checkpoint of `subp train --qat` that is the quantised network.
    """
    from subp.deployment.checks import allowed_by_rounding, check
    from subp_contract.files import write_atomically
    from tvm_sched.bench import engines

    not_an_input(output, model)
    network, metadata = load_network(model, settings)
    if output.suffix == ".pt2":
        return write_program(network, metadata, output)
    x = network.only_input().numpy()
    output_of = engines.peer("onnxruntime", network, threads=1).call(x)
    error = check("the ONNX model", output_of, network.reference(x), allowed=allowed_by_rounding(network))
    write_atomically(output, network.onnx)
    click.echo(
        f"{output}: {len(network.onnx) / 1e6:.2f} MB, input {list(x.shape)}; maximum error to PyTorch {error:.1e}"
    )


def write_program(network: "Network", metadata: dict, output: Path) -> None:
    """The network as a program, with what the metadata tell of classes and preprocessing."""
    from subp.deployment import quantised
    from subp.deployment.checks import as_program

    quantised.save(as_program(network), metadata, output)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.2f} MB, input {list(network.only_input().shape)}")
