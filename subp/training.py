"""Training a network dense or uniformly 1xN sparse: SGD with momentum, warm-up and cosine learning rate, label
smoothing.

    result = training.train(data.digits(), Config(model="resnet20", epochs=20, lr=0.05))
    result.model            # folded, in eval mode
    result.history[-1]      # {"epoch": 19, "val_accuracy": 0.98, "density": 0.25, ...}

With an output folder every epoch leaves `checkpoint.safetensors`, from which `resume=True` goes on, and `log.csv`; the
end leaves `model.safetensors`, the folded network. A run that was interrupted and resumed gives, on a CPU and with the
same number of threads, the same bits as one that was not: learning rates, masks, order and augmentation depend on the
epoch and the seed alone (seeds.py).
"""

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from subp import checkpoint, models
from subp.checkpoint import Checkpoint
from subp.config import MACHINE, SPARSIFIER, Config
from subp.data import Data, batches, train_batches, val_batches
from subp.errors import UserError, require
from subp.progress import Progress
from subp.seeds import derived_seed
from subp.sparsifier import Sparsifier
from subp.transforms import Preprocessing

CHECKPOINT, MODEL, LOG = "checkpoint.safetensors", "model.safetensors", "log.csv"


@dataclass
class Result:
    """The network, folded, in eval mode; per epoch a dictionary of lr, losses, accuracies, density, images_per_s."""

    model: nn.Module
    history: list[dict]


def train(
    data: Data,
    config: Config,
    *,
    model: nn.Module | None = None,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Result:
    """One whole run.

    model:     a network of one's own instead of the one that config.model names; trained in place
    weights:   file to begin with instead of random weights, see subp.models.create; not for a model of one's own
    output:    folder for checkpoint, log and folded model, made if need be
    resume:    go on from the checkpoint in `output`
    progress:  where to tell how it goes; None: nowhere
    """
    require(
        weights is None or (model is None and not resume),
        "only a new run of a named network begins with the weights of a file",
    )
    progress = progress or Progress.silent()
    output = _checked_output(output, resume)
    torch.manual_seed(derived_seed(config.seed, "initialisation"))
    architecture = None
    if model is None:
        architecture = {
            "name": config.model,
            "num_classes": len(data.classes),
            "in_channels": data.preprocessing.channels,
        }
        model = models.create(**architecture, weights_file=weights)
    model.to(_device(config.device))
    _require_fit(model, data.preprocessing)
    sparsifier = make_sparsifier(model, config, data.preprocessing.shape)
    optimizer = torch.optim.SGD(parameter_groups(model, config.weight_decay), lr=config.lr, momentum=0.9)

    about = {
        "architecture": architecture,
        "classes": data.classes,
        "preprocessing": data.preprocessing.as_dict(),
        "config": asdict(config) if architecture else asdict(config) | {"model": type(model).__name__},
        "sparsifier": asdict(sparsifier.settings) if sparsifier else None,
    }
    history = _restore(checkpoint.load(output / CHECKPOINT), about, model, sparsifier, optimizer) if resume else []
    if sparsifier:
        progress.layers(sparsifier.summary())
        if sparsifier.rearranged:
            progress.rearranged(sparsifier.rearranged)
    if output:
        _make_folder(output)
        if history:  # the run may have ended between checkpoint and log
            write_log(output / LOG, history)
    with progress.run(config.epochs, len(history)):
        for epoch in range(len(history), config.epochs):
            history.append(_one_epoch(epoch, data, config, model, sparsifier, optimizer, progress))
            if output:
                state = Checkpoint(
                    model.state_dict(), _momenta(model, optimizer), about | {"epoch": epoch + 1, "history": history}
                )
                checkpoint.save(output / CHECKPOINT, state)
                write_log(output / LOG, history)
            progress.epoch(history[-1])
    if sparsifier:
        sparsifier.fold()
    if output:
        folded = Checkpoint(model.state_dict(), metadata=about | {"epoch": config.epochs, "history": history})
        checkpoint.save(output / MODEL, folded)
    return Result(model.eval(), history)


def make_sparsifier(model: nn.Module, config: Config, input_shape: tuple[int, ...] | None = None) -> Sparsifier | None:
    """The run's sparsifier, its masks on the model; None for dense training. input_shape: as for `Sparsifier`."""
    if config.method == "dense":
        return None
    options = {name: getattr(config, name) for name in SPARSIFIER}
    return Sparsifier(model, input_shape=input_shape, **options)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """For the optimizer: weight decay on matrices and kernels, none on parameters of one dimension (biases, norms)."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Of step 0 .. steps - 1: up to `peak` in a straight line over the warm-up, then down to 0 along half a cosine."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def train_epoch(
    model: nn.Module,
    inputs: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    label_smoothing: float = 0.0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Trains on the batches (images [B, C, H, W], labels [B]); `rate(i)` is the learning rate of batch i; `advance` is
    called after each.

    Returns train_loss (mean), train_accuracy (0 to 1) and images_per_s, loading included.
    """
    device = next(model.parameters()).device
    totals, images_seen, started = torch.zeros(2, device=device), 0, time.perf_counter()
    model.train()
    for batch, (images, labels) in enumerate(inputs):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = rate(batch)
        logits = model(images)
        loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals += torch.stack([loss.detach() * len(labels), (logits.argmax(1) == labels).sum()])
        images_seen += len(labels)
        advance()
    mean_loss, accuracy = (totals / images_seen).tolist()
    require(
        math.isfinite(mean_loss), "the loss is not finite: training diverged, try a lower learning rate or a warm-up"
    )
    return {
        "train_loss": mean_loss,
        "train_accuracy": accuracy,
        "images_per_s": images_seen / (time.perf_counter() - started),
    }


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """val_loss (mean) and val_accuracy (0 to 1) over the batches, in eval mode, which the model is left in."""
    device = next(model.parameters()).device
    totals, images_seen = torch.zeros(2, device=device), 0
    model.eval()
    for images, labels in inputs:
        logits, labels = model(images.to(device)), labels.to(device)
        totals += torch.stack([cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()])
        images_seen += len(labels)
    mean_loss, accuracy = (totals / images_seen).tolist()
    return {"val_loss": mean_loss, "val_accuracy": accuracy}


def write_log(path: Path, history: list[dict]) -> None:
    """One CSV line an epoch."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    checkpoint.write_atomically(path, text.getvalue().encode())


def _one_epoch(epoch, data: Data, config: Config, model, sparsifier, optimizer, progress: Progress) -> dict:
    torch.manual_seed(derived_seed(config.seed, "training", epoch))  # dropout and the like
    if sparsifier:
        sparsifier.step(epoch)
    pin = config.device.startswith("cuda")
    loader = train_batches(data, epoch, seed=config.seed, batch_size=config.batch_size, workers=config.workers, pin=pin)
    steps = len(loader)

    def rate(batch: int) -> float:
        return learning_rate(
            epoch * steps + batch, config.epochs * steps, min(config.warmup_epochs, config.epochs) * steps, config.lr
        )

    progress.batches(epoch, steps)
    trained = train_epoch(model, batches(loader), optimizer, rate, config.label_smoothing, progress.advance)
    evaluated = evaluate(
        model, batches(val_batches(data, batch_size=config.batch_size, workers=config.workers, pin=pin))
    )
    density = sparsifier.density if sparsifier else 1.0
    return {"epoch": epoch, "lr": rate(0), **trained, **evaluated, "density": density}


def _checked_output(output: str | Path | None, resume: bool) -> Path | None:
    """The output folder as a path; refuses to write over an earlier run."""
    if output is None:
        require(not resume, "resuming needs the output folder that holds the checkpoint")
        return None
    earlier = (Path(output) / CHECKPOINT).exists()
    require(resume or not earlier, f"{output} already holds a checkpoint: resume it, or take another output folder")
    return Path(output)


@torch.no_grad()
def _require_fit(model: nn.Module, about: Preprocessing) -> None:
    """Refuses a network that cannot take the images, such as one too deep for small ones."""
    device, shape = next(model.parameters()).device, about.shape
    try:
        model.eval()(torch.zeros(1, *shape, device=device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the network cannot take images of {'x'.join(map(str, shape))}: {reason}") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error
    require(os.access(path, os.W_OK), f"the folder {path} is not writable")


def _restore(saved: Checkpoint, about: dict, model: nn.Module, sparsifier: Sparsifier | None, optimizer) -> list[dict]:
    """Puts the checkpoint's state back everywhere; returns the history of the epochs done.

    Raises UserError, naming what differs, if the checkpoint is of another run: `about` is this one's metadata.
    """
    ours = json.loads(json.dumps(about))
    for part in ("config", "preprocessing"):
        for name in ours[part].keys() - set(MACHINE):
            was, now = saved.metadata[part].get(name), ours[part][name]
            require(was == now, f"the run to resume has {name} = {was}, not {now}: resume it with its own options")
    require(
        saved.metadata["classes"] == ours["classes"],
        "the run to resume was trained on other classes than this data has",
    )
    checkpoint.fill(model, saved.model, "the weights of the run to resume")
    if sparsifier:
        sparsifier.epoch = saved.metadata["epoch"] - 1
    for name, parameter in model.named_parameters():
        if name in saved.optimizer:
            optimizer.state[parameter]["momentum_buffer"] = saved.optimizer[name].to(parameter.device)
    return saved.metadata["history"]


def _momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """SGD's only state, by parameter name; the learning rate follows from the step."""
    state = ((name, optimizer.state[parameter].get("momentum_buffer")) for name, parameter in model.named_parameters())
    return {name: buffer for name, buffer in state if buffer is not None}


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
