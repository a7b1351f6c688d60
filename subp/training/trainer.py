"""Training a network dense or uniformly 1xN sparse: SGD with momentum, warm-up and cosine learning rate, label
smoothing, and what else torchvision's reference recipes offer (config.py).

    result = trainer.train(loaders.digits(), Config(model="resnet20", epochs=20, lr=0.05))
    result.model            # folded, in eval mode
    result.history[-1]      # {"epoch": 19, "val_accuracy": 0.98, "density": 0.25, ...}

Started by torchrun, the processes share each batch, and the first alone writes and talks.

With an output folder every epoch leaves `checkpoint.safetensors`, from which `resume=True` goes on, `log.csv` and,
where masks moved, `masks.csv`; the end leaves `model.safetensors`, the folded network, and in it after epochs that
train for 8 bits (`qat`) the quantised one. A run that was killed and resumed, any number of times, gives on a CPU and
with the same number of threads and processes the same bits as one that was not: learning rates, masks, order and
augmentation depend on the epoch and the seed alone (seeds.py), and an epoch cut short is done again from its start.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from subp.data.loaders import Data
from subp.training import checkpoint, distributed, quantised
from subp.training.checkpoint import Checkpoint
from subp.training.config import Config
from subp.training.progress import Progress
from subp.training.run import TrainingRun
from subp.training.run_files import CHECKPOINT, MODEL, RunFiles, checked_output, require_same_run
from subp.training.run_files import LOG as LOG
from subp.training.run_files import TENSORBOARD as TENSORBOARD
from subp_contract.errors import require


@dataclass
class Result:
    """The network, folded, in eval mode; per epoch a dictionary of lr, losses, accuracies, density, images_per_s.

    After training for 8 bits `program` is the quantised network, for any number of images, whose accuracy the last
    epoch tells; `model` has the weights that it was made of.
    """

    model: nn.Module
    history: list[dict]
    program: ExportedProgram | None = None


def train(
    data: Data,
    config: Config,
    *,
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    settings: str | None = None,
) -> Result:
    """One whole run.

    model:     a network of one's own instead of the one that config.model names; trained in place
    weights:   file to begin with instead of random weights, see subp.models.create; not for a model of one's own
    output:    folder for checkpoint, log and folded model, made if need be
    resume:    go on from the checkpoint in `output`
    progress:  where to tell how it goes; None: nowhere
    settings:  what the folder shall hold as config.yaml

    Raises UserError for a network that does not fit the data, options that exclude each other, a folder that holds
    another run, and training that diverges.
    """
    require(
        weights is None or (model is None and not resume),
        "only a new run of a named network begins with the weights of a file",
    )
    output = checked_output(output, resume)
    require(
        config.float_epochs > 0 or resume or weights is not None or model is not None,
        f"all {config.epochs} epochs train for 8 bits: begin with weights, or train more epochs",
    )
    require(output is not None or not config.tensorboard, "TensorBoard's files need an output folder")
    with distributed.joined(config.device) as ranks:
        progress = progress if progress and ranks.first else Progress.silent()
        ranks.wait()  # the first may still be writing the checkpoint of a run before this one
        saved = checkpoint.load_run(output / CHECKPOINT) if output and resume else None
        if saved:
            require_same_run(saved.metadata, data, config, model)
        return _trained(TrainingRun(data, config, model, weights, ranks), saved, output, progress, settings)


def _trained(
    run: TrainingRun, saved: Checkpoint | None, output: Path | None, progress: Progress, settings: str | None
) -> Result:
    """The run from its first epoch, or the one after `saved`, to its end. What it held is free when this returns."""
    config, ranks = run.config, run.ranks
    if saved:
        run.restore(saved)
    if run.sparsifier and len(run.history) < config.epochs:
        progress.layers(run.sparsifier.summary())
        if run.sparsifier.rearranged and not run.history:
            progress.rearranged(run.sparsifier.rearranged)
    files = RunFiles(output, run, config.tensorboard, settings) if output and ranks.first else None
    with progress.run(config.epochs, len(run.history)):
        if config.sparse_compute and len(run.history) < config.float_epochs:
            run.prepare(progress)
        for epoch in range(len(run.history), config.epochs):
            run.epoch(epoch, progress)
            if files:
                files.write()
            progress.epoch(run.history[-1])
    folded, program = run.finished()
    if output and files:
        tensors = quantised.packed(program) if program else {}
        checkpoint.save(output / MODEL, Checkpoint(folded.state_dict(), metadata=run.about_now, quantised=tensors))
    return Result(folded.eval(), run.history, program)
