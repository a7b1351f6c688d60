"""The options of `subp train` that say how it trains, whatever the method."""

from collections.abc import Callable

import click

from subp.cli.options import INPUT_FILE
from subp.config import AMP, AUTO_AUGMENT, Config


def _option(name: str, help: str, **kind) -> Callable:
    """An option with Config's default, of the default's type."""
    default = getattr(Config, name.removeprefix("--").replace("-", "_"))
    kind.setdefault("type", type(default))
    return click.option(name, default=default, show_default=default is not None, help=help, **kind)


def _flag(name: str, help: str) -> Callable:
    return click.option(name, is_flag=True, help=help)


OPTIONS = (
    _option("--epochs", "Passes over the training images."),
    _option("--batch-size", "Images in a step of training, of all processes together."),
    _option("--lr", "Highest learning rate; falls to 0 along a cosine."),
    _option("--weight-decay", "Not applied to biases and norms."),
    _option("--label-smoothing", "Share of each label that is spread over all classes, from 0 to below 1."),
    _option("--warmup-epochs", "Epochs in which the learning rate rises from 0."),
    _option("--mixup", "Mix images in pairs: parameter alpha of mixup, such as 0.2; 0 for not."),
    _option("--cutmix", "Paste parts of images into others: parameter alpha of cutmix, such as 1; 0 for not."),
    _option("--random-erase", "Probability that a rectangle of a training image is blanked."),
    _option("--auto-augment", "A policy of torchvision's for the training images.", type=click.Choice(list(AUTO_AUGMENT))),
    _option("--ema", "Deliver averaged weights: what the average keeps of itself in a step, such as 0.999; 0 for not."),
    _option("--accumulate", "Parts in which a batch passes through the network, where memory is short."),
    _option("--amp", "Compute in bfloat16 or float16 where that is safe.", type=click.Choice(list(AMP))),
    _flag("--channels-last", "Lay images and weights out pixel by pixel."),
    _flag("--compile", "Compile the network by torch.compile; needs a C++ compiler on CPUs."),
    _flag("--sparse-compute", "Leave pruned blocks out of the products of 1x1 convolutions, on a CPU, for n of 16 up."),
    click.option(
        "--size",
        type=click.IntRange(1),
        help="Input size in pixels.  [default: the first image's shorter side, 224 at most; 32 for digits]",
    ),
    click.option(
        "--weights",
        type=INPUT_FILE,
        metavar="FILE",
        help="Begin with these weights: a state dict of the same network (torch.save's, or .safetensors).",
    ),
    _option("--seed", "Of initialisation, order, augmentation, masks and split."),
    _flag("--download", "Let torchvision fetch its data set if the folder lacks it."),
    _flag("--skip-broken", "Leave out images that cannot be read, naming each, instead of ending."),
    _flag("--tensorboard", "Also write TensorBoard's event files, to OUTPUT/tensorboard."),
    _option("--workers", "Processes that load images; 0 loads in the main one."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each process.  [default: PyTorch's choice]"),
    _option("--device", "cpu, cuda, cuda:1, mps, ..."),
)


def loop_options(command: Callable) -> Callable:
    """Decorates a command with all of OPTIONS, in that order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
