"""The options of `subp train` that say how it trains, whatever the method."""

from collections.abc import Callable

import click

from subp.cli.options.types import INPUT_FILE, PIXELS, SEED, THREADS, setting
from subp.data.policies import AUTO_AUGMENT
from subp.pruning.settings import WAYS
from subp.training.config import AMP

_OPTIONS = (
    setting("--epochs", "Passes over the training images."),
    setting("--batch-size", "Images in a step of training, of all processes together."),
    setting("--lr", "Highest learning rate; falls to 0 along a cosine."),
    setting("--weight-decay", "Weight decay, of all but biases and norms."),
    setting("--label-smoothing", "Share of each label that is spread over all classes, from 0 to below 1."),
    setting("--warmup-epochs", "Epochs in which the learning rate rises from 0."),
    setting("--mixup", "Mix images in pairs: parameter alpha of mixup, such as 0.2; 0 for not."),
    setting("--cutmix", "Paste parts of images into others: parameter alpha of cutmix, such as 1; 0 for not."),
    setting("--random-erase", "Probability that a rectangle of a training image is blanked."),
    setting(
        "--auto-augment", "A policy of torchvision's for the training images.", type=click.Choice(list(AUTO_AUGMENT))
    ),
    setting("--ema", "Deliver averaged weights: what the average keeps of itself in a step, such as 0.999; 0 for not."),
    setting("--accumulate", "Parts in which a batch passes through the network, where memory is short."),
    setting("--amp", "Compute in bfloat16 or float16 where that is safe.", type=click.Choice(list(AMP))),
    setting("--channels-last", "Lay images and weights out pixel by pixel."),
    setting("--compile", "Compile the network by torch.compile; needs a C++ compiler on CPUs."),
    setting(
        "--qat",
        "The last so many epochs train for 8 bits: weights and activations are rounded as the quantised network will "
        "round them, zeros stay where they are, and the result is a quantised network.",
        type=int,
    ),
    setting(
        "--weight-bits",
        "Bits of a weight in the epochs of --qat, 8 or 7; x86 CPUs without VNNI compute up to twice as fast with 7.",
        type=int,
    ),
    setting(
        "--sparse-compute",
        "Leave pruned blocks out of the products of a step, on a CPU, by kernels built for the network's layers.",
        type=click.Choice(list(WAYS)),
    ),
    click.option(
        "--size",
        type=PIXELS,
        help="Input size in pixels.  [default: the first image's shorter side, 224 at most; 32 for digits]",
    ),
    click.option(
        "--weights",
        type=INPUT_FILE,
        metavar="FILE",
        help="Begin with these weights: a state dict of the same network (.pt, .pth, .safetensors), or a checkpoint.",
    ),
    setting("--seed", "Seed of initialisation, order, augmentation, masks and split.", type=SEED),
    click.option("--download", is_flag=True, help="Let torchvision fetch its data set if the folder lacks it."),
    setting("--skip-broken", "Do without images that cannot be read, naming each, instead of ending."),
    setting("--tensorboard", "Also write TensorBoard's event files, to OUTPUT/tensorboard."),
    setting("--workers", "Processes that load images; 0 loads in the main one."),
    click.option("--threads", type=THREADS, help="CPU threads of each process.  [default: PyTorch's choice]"),
    setting("--device", "Device to train on: cpu, cuda, cuda:1, mps and so on."),
)


def loop_options(command: Callable) -> Callable:
    """Adds the options to a command, which gets them by the names of `Config`'s fields, where it has them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
