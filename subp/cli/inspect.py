"""`subp inspect`: what a checkpoint's layers hold."""

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Show FILE's layers: block size, density, uniform or not, multiply-accumulates, bytes dense and as BSR.

    FILE is a checkpoint or a folded network of `subp train`.
    """
    from subp import checkpoint, summary
    from subp.cli.terminal import console

    model, metadata = checkpoint.load_model(file)
    about = metadata.get("preprocessing")
    input_shape = (about["channels"], about["size"], about["size"]) if about else None  # without it no MACs
    console().print(summary.table(summary.inspect(model, input_shape), _title(metadata, input_shape)))


def _title(metadata: dict, input_shape: tuple[int, ...] | None) -> str:
    """What the metadata tells of the network, as far as it does."""
    parts = [metadata["architecture"]["name"]]
    if "classes" in metadata:
        parts.append(f"{len(metadata['classes'])} classes")
    if input_shape:
        parts.append(f"input {'x'.join(map(str, input_shape))}")
    if "epoch" in metadata:
        parts.append(f"epoch {metadata['epoch']}")
    if metadata.get("history") and "val_accuracy" in metadata["history"][-1]:
        parts.append(f"validation accuracy {metadata['history'][-1]['val_accuracy']:.2%}")
    return ", ".join(parts)
