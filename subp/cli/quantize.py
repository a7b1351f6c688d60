"""`subp quantize`: a network in 8 bits, calibrated on images."""

from pathlib import Path

import click

from subp.cli.options.config_file import write_resolved
from subp.cli.options.model import load_network, model_options
from subp.cli.options.types import SEED, OutputFile, not_an_input
from subp_quantizer import WEIGHT_BITS


@click.command("quantize", short_help="Quantise MODEL to 8 bits, calibrated on images, as a .pt2.")
@click.argument("model")
@model_options()
@click.option(
    "--calibrate",
    "data",
    metavar="DATA",
    required=True,
    help="Images to calibrate on: what `subp train` takes as DATA, of which those to train on are used; or a .npy file "
    "of inputs, N of them along its first axis.",
)
@click.option(
    "--batches", type=click.IntRange(1), default=32, show_default=True, help="Batches of 16 images to calibrate on."
)
@click.option(
    "--weight-bits",
    type=click.Choice(list(map(str, WEIGHT_BITS))),
    default="8",
    show_default=True,
    help="Bits of a weight; x86 CPUs without VNNI compute up to twice as fast with 7.",
)
@click.option("--draw", type=SEED, default=0, show_default=True, help="Seed of the choice of images.")
@click.option("--download", is_flag=True, help="Let torchvision fetch its data set if the folder lacks it.")
@click.option("-o", "--output", type=OutputFile(".pt2"), required=True, help="The .pt2 file to write.")
def command(
    model: str, settings: dict, data: str, batches: int, weight_bits: str, draw: int, download: bool, output: Path
) -> None:
    """Quantise MODEL: weights to int8 by output channel, whose zeros stay zeros, activations to uint8 in the ranges
    that they take on the images of --calibrate, prepared as at evaluation.

    The result is a MODEL for `subp compile`, for batches of any size where this one's network takes them.
    """
    from subp.cli.options.terminal import tracked, working
    from subp.deployment import quantised

    not_an_input(output, model, data)
    network, metadata = load_network(model, settings)
    with working(f"reading {data}"):
        inputs = quantised.calibration(data, network, metadata, batches, draw, download)
    program = quantised.quantize(network, tracked(f"quantising {model}")(inputs), int(weight_bits))
    quantised.save(program, metadata, output)
    write_resolved(output, click.get_current_context())
    size, count = output.stat().st_size / 1e6, sum(map(len, inputs))
    click.echo(f"{output}: {size:.2f} MB, {quantised.summary(program)}, calibrated on {count} inputs")
