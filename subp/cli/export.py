"""`subp export`: the folded network as ONNX."""

from pathlib import Path

import click

from subp.cli.options.model import load_network, model_options
from subp.cli.options.types import OutputFile, not_an_input


@click.command("export", short_help="Write MODEL as an ONNX file, checked against PyTorch.")
@click.argument("model")
@model_options()
@click.option("-o", "--output", type=OutputFile(), required=True, help="The .onnx file to write.")
def command(model: str, settings: dict, output: Path) -> None:
    """Write MODEL as an ONNX file, zeros in place, once its output agrees with PyTorch's."""
    from subp.deployment.checks import check
    from subp_contract.files import write_atomically
    from tvm_sched.bench import engines

    not_an_input(output, model)
    network, _ = load_network(model, settings)
    x = network.only_input().numpy()
    error = check("the ONNX model", engines.peer("onnxruntime", network, threads=1).call(x), network.reference(x))
    write_atomically(output, network.onnx)
    click.echo(
        f"{output}: {len(network.onnx) / 1e6:.2f} MB, input {list(x.shape)}; maximum error to PyTorch {error:.1e}"
    )
