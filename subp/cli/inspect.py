"""`subp inspect`: what a checkpoint's layers hold."""

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Show FILE's layers: block size, density, uniform or not, multiply-accumulates, bytes dense and as BSR.

    FILE is a checkpoint or a folded network of `subp train`.
    """
    from rich.console import Console

    from subp import checkpoint, summary

    model, metadata = checkpoint.load_model(file)
    preprocessing = metadata["preprocessing"]
    input_shape = (preprocessing["channels"], preprocessing["size"], preprocessing["size"])
    rows = summary.inspect(model, input_shape)
    history = metadata["history"]
    title = (
        f"{metadata['config']['model']}, {len(metadata['classes'])} classes, input {'x'.join(map(str, input_shape))}, "
        f"epoch {metadata['epoch']}, validation accuracy {history[-1]['val_accuracy']:.2%}"
    )
    Console().print(summary.table(rows, title))
