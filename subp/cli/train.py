"""`subp train`: one training run from the command line."""

from pathlib import Path

import click
from click.core import ParameterSource

from subp.cli.options.config_file import resolved
from subp.cli.options.loop import loop_options
from subp.cli.options.method import method_options, with_preset
from subp.training.config import Config
from subp_contract.errors import require


@click.command()
@click.argument("data")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="runs/train",
    show_default=True,
    help="Folder for checkpoint.safetensors, log.csv, masks.csv, config.yaml (all settings, for --config), and at the "
    "end model.safetensors, the folded network.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the checkpoint in the output folder, with its settings; name a FILE.py:FUNCTION again.",
)
@click.option("--auto-resume", is_flag=True, help="Resume if the output folder holds a checkpoint, or else begin.")
@click.option(
    "--model",
    default=Config.model,
    show_default=True,
    help="Network to train: resnet20/32/44/56/110 (for 32x32 images), mobilenet_v1 (_x0_25, _x0_375, _x0_5, _x0_75), "
    "one of torchvision's, timm/NAME, or FILE.py:FUNCTION, called with num_classes and in_channels.",
)
@method_options
@loop_options
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    output: Path,
    resume: bool,
    auto_resume: bool,
    size: int | None,
    weights: Path | None,
    download: bool,
    threads: int | None,
    preset: str | None,
    as_published: bool,
    **options,
) -> None:
    """Train a network on DATA, dense or uniformly 1xN sparse.

    DATA is a folder or a zip of images <class>/<file> (with train and val or test parts, or split 80 to 20); a folder
    with train.zip and val.zip or test.zip of such; a folder with MNIST's idx files; digits, which needs no files; or
    NAME:FOLDER for a data set of torchvision's, such as CIFAR10:data.

    Several processes: torchrun --nproc-per-node 2 -m -- subp train DATA ..., where -- keeps torchrun from taking
    options of this command for its own.
    """
    import torch
    from rich.console import Console

    from subp.cli.options.terminal import console
    from subp.common.freed_memory import keep_freed_memory
    from subp.data.loaders import datasets
    from subp.training import checkpoint, distributed, trainer
    from subp.training.progress import Progress

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    given = {
        name: value for name, value in options.items() if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    settings = with_preset(preset, given, as_published)
    if auto_resume and (output / trainer.CHECKPOINT).exists():
        resume, weights = True, None  # which the run has begun with
    if resume:
        saved = checkpoint.load_run(output / trainer.CHECKPOINT).metadata
        require_no_code(saved["config"], settings)
        settings = saved["config"] | settings
        size = size or saved["preprocessing"]["size"]
    config = Config.of(settings)
    output_console = console() if distributed.is_first() else Console(quiet=True)
    images = datasets(data, size=size, seed=config.seed, download=download, skip_broken=config.skip_broken)
    progress = Progress(output_console)
    changes = config.as_dict() | {"size": images.preprocessing.size}
    text = None if resume else resolved(ctx, changes, without=("preset", "as_published"))
    result = trainer.train(
        images, config, weights=weights, output=output, resume=resume, progress=progress, settings=text
    )
    output_console.print(
        f"validation accuracy {result.history[-1]['val_accuracy']:.2%}, density {result.history[-1]['density']:.1%}: "
        f"{output / trainer.MODEL}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def require_no_code(saved: dict, given: dict) -> None:
    """Raises UserError where resuming would run a file that only the checkpoint names: who resumes must name it too."""
    from subp.models import elsewhere

    name = str(saved.get("model"))
    require(
        "model" in given or not elsewhere.is_file(name),
        f"the run to resume trains a network that code makes, which is run only if you name it: add --model {name}",
    )
