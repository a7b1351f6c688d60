"""`subp train`: one training run from the command line."""

from pathlib import Path

import click
from click.core import ParameterSource

from subp.cli.method_options import method_options, with_preset
from subp.cli.options import INPUT_FILE
from subp.config import Config


@click.command()
@click.argument("data")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="runs/train",
    show_default=True,
    help="Folder for checkpoint.safetensors, log.csv and at the end model.safetensors, the folded network.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder, with its settings.")
@click.option(
    "--model",
    default=Config.model,
    show_default=True,
    help="resnet20/32/44/56/110 (for 32x32 images), mobilenet_v1 (_x0_25, _x0_5, _x0_75), one of torchvision's, timm/NAME, "
    "or FILE.py:FUNCTION, called with num_classes and in_channels.",
)
@method_options
@click.option("--epochs", type=int, default=Config.epochs, show_default=True, help="Passes over the training images.")
@click.option(
    "--batch-size", type=int, default=Config.batch_size, show_default=True, help="Images in a step of training."
)
@click.option(
    "--lr", type=float, default=Config.lr, show_default=True, help="Highest learning rate; falls to 0 along a cosine."
)
@click.option(
    "--weight-decay",
    type=float,
    default=Config.weight_decay,
    show_default=True,
    help="Not applied to biases and norms.",
)
@click.option(
    "--label-smoothing",
    type=float,
    default=Config.label_smoothing,
    show_default=True,
    help="Share of each label that is spread over all classes, from 0 to below 1.",
)
@click.option(
    "--warmup-epochs",
    type=int,
    default=Config.warmup_epochs,
    show_default=True,
    help="Epochs in which the learning rate rises from 0.",
)
@click.option(
    "--size",
    type=click.IntRange(1),
    help="Input size in pixels.  [default: the first image's shorter side, 224 at most; 32 for digits]",
)
@click.option(
    "--weights",
    type=INPUT_FILE,
    metavar="FILE",
    help="Begin with these weights: a state dict of the same network (.pt, .pth, .safetensors), or a checkpoint.",
)
@click.option(
    "--seed",
    type=int,
    default=Config.seed,
    show_default=True,
    help="Of initialisation, order, augmentation, masks and split.",
)
@click.option("--download", is_flag=True, help="Let torchvision fetch its data set if the folder lacks it.")
@click.option(
    "--workers",
    type=int,
    default=Config.workers,
    show_default=True,
    help="Processes that load images; 0 loads in the main one.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: PyTorch's choice]")
@click.option("--device", default=Config.device, show_default=True, help="cpu, cuda, cuda:1, mps, ...")
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    output: Path,
    resume: bool,
    size: int | None,
    weights: Path | None,
    download: bool,
    threads: int | None,
    preset: str | None,
    **options,
) -> None:
    """Train a network on DATA, dense or uniformly 1xN sparse.

    DATA is a folder or a zip of images <class>/<file> (with train and val or test parts, or split 80 to 20); a folder
    with train.zip and val.zip or test.zip of such; a folder with MNIST's idx files; digits, which needs no files; or
    NAME:FOLDER for a data set of torchvision's, such as CIFAR10:data.
    """
    import torch

    from subp import checkpoint, training
    from subp.cli.terminal import console
    from subp.data import datasets
    from subp.progress import Progress

    if threads:
        torch.set_num_threads(threads)
    options = with_preset(ctx, preset, options)
    if resume:
        saved = checkpoint.load(output / training.CHECKPOINT).metadata
        given = {name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
        options = saved["config"] | {name: value for name, value in options.items() if name in given}
        size = size or saved["preprocessing"]["size"]
    config = Config(**options)
    output_console = console()
    images = datasets(data, size=size, seed=config.seed, download=download)
    progress = Progress(output_console)
    result = training.train(images, config, weights=weights, output=output, resume=resume, progress=progress)
    output_console.print(
        f"validation accuracy {result.history[-1]['val_accuracy']:.2%}, density {result.history[-1]['density']:.1%}: "
        f"{output / training.MODEL}",
        highlight=False,
        soft_wrap=True,
    )
