"""`subp convert`: a checkpoint of the SUBP authors' code as one of ours."""

from pathlib import Path

import click

from subp.cli.options.types import INPUT_FILE, PIXELS, OutputFile, not_an_input


@click.command()
@click.argument("file", type=INPUT_FILE)
@click.option("-o", "--output", type=OutputFile(".safetensors"), required=True, help="The .safetensors file to write.")
@click.option("--model", help="The network it holds.  [default: a ResNet or MobileNetV1 that its tensors fit]")
@click.option("--size", type=PIXELS, default=224, show_default=True, help="Images' height and width in pixels.")
def command(file: Path, output: Path, model: str | None, size: int) -> None:
    """Fold a published SUBP checkpoint FILE, weights and masks, into a checkpoint that the other commands take.

    FILE is a state dict (.pt, .pth, .tar, .safetensors) with <layer>.weight and <layer>.mask. Only tensors are read
    from it, no code.
    """
    from subp.data.preprocessing import Preprocessing
    from subp.models.weights import read_state_dict
    from subp.pruning import summary
    from subp.training import checkpoint, published

    not_an_input(output, file)
    folded = published.fold(read_state_dict(file))
    architecture, state = published.recognised(folded, [model] if model else published.ARCHITECTURES)
    preprocessing = Preprocessing.standard(size, architecture["in_channels"])
    about = {"architecture": architecture, "preprocessing": preprocessing.as_dict()}
    checkpoint.save(output, checkpoint.Checkpoint(state, metadata=about))
    network, _ = checkpoint.load_model(output)
    rows = summary.inspect(network, preprocessing.shape)
    blocks = sorted({row.n for row in rows if row.n})
    kept = sum(row.sparse_macs for row in rows) / sum(row.macs for row in rows)
    click.echo(
        f"{output}: {architecture['name']}, {architecture['num_classes']} classes, "
        f"{'blocks of 1x' + ', 1x'.join(map(str, blocks)) if blocks else 'no zero blocks'}, {kept:.1%} of the dense "
        "MACs"
    )
