"""`subp run`: one input through an artifact."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.types import INPUT_FILE, OutputFile, not_an_input
from subp_contract.errors import UserError

if TYPE_CHECKING:
    import numpy as np

TOP = 5  # classes printed


@click.command("run")
@click.argument("artifact", metavar="NET.SO", type=INPUT_FILE)
@click.argument("input_file", metavar="INPUT", type=INPUT_FILE)
@click.option("-o", "--output", type=OutputFile(), help="File for the output as .npy, instead of printing the classes.")
def command(artifact: Path, input_file: Path, output: Path | None) -> None:
    """Run NET.SO on INPUT, an image or a .npy file, and print the likeliest classes.

    An image is prepared as in training where NET.SO knows how; a .npy file holds the network's input as it is.
    """
    import numpy as np

    import tvm_sched

    not_an_input(output, artifact, input_file)
    network = tvm_sched.load(artifact)
    x = read_array(input_file) if input_file.suffix == ".npy" else read_image(input_file, network.manifest)
    y = network(x)
    if output is None:
        for logits in y:
            shares = likeliest(logits, network.manifest.get("classes"))
            click.echo("   ".join(f"{name} {share:.1%}" for name, share in shares))
        return
    from subp_contract.files import write_atomically

    npy = io.BytesIO()
    np.save(npy, y)
    write_atomically(output, npy.getvalue())


def read_array(path: Path) -> "np.ndarray":
    """The array of a .npy file."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a .npy file of numbers ({error})") from error


def read_image(path: Path, manifest: dict) -> "np.ndarray":
    """An image as the network's input [1, C, H, W], prepared as the manifest says, else the standard way."""
    from subp.data.images import open_image
    from subp.data.transforms import Preprocessing, evaluation

    shape = manifest["inputs"][0]["shape"]
    if len(shape) != 4:
        raise UserError(f"the network takes {list(shape)}, no image: give a .npy file")
    try:
        image = open_image(path)
    except UserError as error:
        raise UserError(f"neither a .npy file nor an image that can be read: {error}") from error
    _, channels, height, width = shape
    about = manifest.get("preprocessing")
    preprocessing = Preprocessing(**about) if about else Preprocessing.standard(height, channels)
    x = evaluation(preprocessing)(image).unsqueeze(0).numpy()
    if x.shape[1:] != tuple(shape[1:]):
        prepared, taken = list(x.shape[1:]), [channels, height, width]
        raise UserError(f"images are prepared as {prepared}, the network takes {taken}: give a .npy file")
    return x


def likeliest(logits: "np.ndarray", classes: list[str] | None) -> list[tuple[str, float]]:
    """(class, probability) of the TOP largest logits [classes], largest first; classes without names by number."""
    import numpy as np

    exponentials = np.exp(logits - logits.max())
    order = np.argsort(-exponentials)[:TOP]
    return [(classes[i] if classes else str(i), float(exponentials[i] / exponentials.sum())) for i in order]
