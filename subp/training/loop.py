"""One epoch of training, and of evaluation; what a step is made of."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from subp.training.distributed import ALONE, Ranks
from subp.training.precision import Precision
from subp_contract.errors import require


def momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """SGD's only state, by parameter name; the learning rate follows from the step."""
    state = ((name, optimizer.state[parameter].get("momentum_buffer")) for name, parameter in model.named_parameters())
    return {name: buffer for name, buffer in state if buffer is not None}


def set_momenta(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Gives the optimizer what `momenta` returned. Raises UserError where that is of other shapes, and gives none."""
    found = [(name, parameter, saved[name]) for name, parameter in model.named_parameters() if name in saved]
    for name, parameter, momentum in found:
        damage = f"the run to resume is damaged: the momentum of {name} is {list(momentum.shape)}"
        require(momentum.shape == parameter.shape, damage)
    for _, parameter, momentum in found:
        optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)


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


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network whose weights are to become a moving average of the network's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
        return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


def train_epoch(
    network: nn.Module,
    inputs: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    ranks: Ranks = ALONE,
    precision: Precision | None = None,
    *,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Trains on this process's batches (images [B, C, H, W], labels [B], or [B, classes] of mixed images).

    network:     from Ranks.parallel
    rate:        rate(i) is the learning rate of batch i
    accumulate:  parts, as equal as can be, in which a batch passes through the network, so that it needs less memory
    after_step:  called after each batch
    precision:   None for float32 on the network's device

    Returns train_loss (mean), train_accuracy (0 to 1) and images_per_s (loading included), of all processes.
    """
    precision = precision or Precision.plain(network)
    totals, started = torch.zeros(3, device=precision.device), time.perf_counter()
    network.train()
    for batch, (images, labels) in enumerate(inputs):
        for group in optimizer.param_groups:
            group["lr"] = rate(batch)
        images, labels = precision.place(images), labels.to(precision.device, non_blocking=True)
        optimizer.zero_grad()
        count = min(accumulate, len(images))
        parts = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
        for number, (some, some_labels) in enumerate(parts, 1):
            with contextlib.nullcontext() if number == len(parts) else _unsynchronised(network):
                with precision.autocast():
                    logits = network(some)
                    loss = cross_entropy(logits, some_labels, label_smoothing=label_smoothing) * len(some) / len(images)
                precision.scaler.scale(loss).backward()
            hits = (logits.argmax(1) == (some_labels if some_labels.ndim == 1 else some_labels.argmax(1))).sum()
            totals += torch.stack([loss.detach() * len(images), hits, hits.new_tensor(len(some))])
        precision.step(optimizer)
        after_step()
    loss, hits, images_seen = ranks.sum(totals).tolist()
    require(images_seen > 0, "no image was left to train on")
    require(math.isfinite(loss), "the loss is not finite: training diverged, try a lower learning rate or a warm-up")
    return {
        "train_loss": loss / images_seen,
        "train_accuracy": hits / images_seen,
        "images_per_s": images_seen / (time.perf_counter() - started),
    }


@torch.no_grad()
def evaluate(
    network: nn.Module,
    inputs: Iterable[tuple[Tensor, Tensor]],
    ranks: Ranks = ALONE,
    precision: Precision | None = None,
) -> dict[str, float]:
    """val_loss (mean) and val_accuracy (0 to 1) over all processes' batches, computed in float32, in eval mode, which
    the network is left in. precision: as above.
    """
    precision = precision or Precision.plain(network)
    totals = torch.zeros(3, device=precision.device)
    network.eval()
    for images, labels in inputs:
        logits, labels = network(precision.place(images)), labels.to(precision.device)
        loss, hits = cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()
        totals += torch.stack([loss, hits, hits.new_tensor(len(labels))])
    loss, hits, images_seen = ranks.sum(totals).tolist()
    require(images_seen > 0, "no image was left to validate on")
    return {"val_loss": loss / images_seen, "val_accuracy": hits / images_seen}


def _unsynchronised(network: nn.Module) -> contextlib.AbstractContextManager:
    """Gradients are summed up locally inside, and averaged over the processes by the next backward pass outside."""
    return network.no_sync() if hasattr(network, "no_sync") else contextlib.nullcontext()
