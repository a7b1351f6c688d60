"""What low precision costs in accuracy: one trained network in float32, float16 and 8 bits, on all validation images.

row = accuracies(cell, root, work)   # trains what is not in `work` yet; see training.experiments for cells and data
"""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import tvm_sched
from subp import models
from subp.data.loaders import Data
from subp.deployment import quantised
from subp.training import checkpoint, experiments, trainer
from subp.training.config import Config
from subp.training.experiments import Cell
from subp.training.progress import Progress

CALIBRATION_IMAGES = 512
QAT_LR = 0.05  # of the training's highest rate, in the one epoch that trains for 8 bits
COLUMNS = (
    *("cell", "data", "size", "train_images", "network", "n", "sparsity", "epochs", "seed", "options"),
    *("float32", "float16", "int8_calibrated", "int8_qat", "int8_7_bits"),
)


def accuracies(cell: Cell, root: Path, work: Path, progress: Progress | None = None) -> dict[str, Any]:
    """The cell's row, one of COLUMNS: its network's top-1 accuracies, from 0 to 1, on all validation images.

    float16:          weights and the result of every operator rounded to it, sums in float32
    int8_calibrated:  by `tvm_sched.quantize`, on CALIBRATION_IMAGES of the training images
    int8_qat:         after one more epoch, that trains for 8 bits
    int8_7_bits:      calibrated too, with weights of 7 bits
    root, work:       folders of the data sets and of trainings; one that was cut off goes on
    """
    data = experiments.load(cell, root)
    config, folder = config_of(cell), work / cell.key
    resume = (folder / trainer.CHECKPOINT).exists()
    if not (folder / trainer.MODEL).exists():
        trainer.train(experiments.watched(data, cell.seed), config, output=folder, resume=resume, progress=progress)
    model = models.create(cell.network, len(data.classes), data.preprocessing.channels)  # it may be one of a file
    model, _ = checkpoint.load_model(folder / trainer.MODEL, model)
    return {
        **{name: value for name, value in asdict(cell).items() if name in COLUMNS},
        "cell": cell.key,
        "options": " ".join(f"{name}={value}" for name, value in cell.options),
        "float32": experiments.accuracy(model, data),
        "float16": experiments.accuracy(InFloat16(model), data),
        "int8_calibrated": experiments.accuracy(calibrated(model, data, cell.seed), data),
        "int8_qat": experiments.accuracy(trained_for_8_bits(cell, data, folder / trainer.MODEL, progress), data),
        "int8_7_bits": experiments.accuracy(calibrated(model, data, cell.seed, 7), data),
    }


def config_of(cell: Cell) -> Config:
    """The training of the cell's network, in float32."""
    named = {"model": cell.network} | {
        name: getattr(cell, name) for name in ("method", "n", "sparsity", "epochs", "batch_size", "lr", "seed")
    }
    return Config.of(named | dict(cell.options))


def calibrated(model: nn.Module, data: Data, seed: int, weight_bits: int = 8) -> nn.Module:
    """The network in 8 bits, for any number of images, its ranges those of training images."""
    inputs = quantised.chosen(data, CALIBRATION_IMAGES, quantised.BATCH, seed)
    return tvm_sched.quantize(model, inputs, weight_bits=weight_bits).module(check_guards=False)


def trained_for_8_bits(cell: Cell, data: Data, weights: Path, progress: Progress | None = None) -> nn.Module:
    """The network in 8 bits after one epoch of training for them, which begins with these weights."""
    config = replace(config_of(cell), epochs=1, qat=1, warmup_epochs=0, lr=cell.lr * QAT_LR, start=None, end=None)
    result = trainer.train(experiments.watched(data, cell.seed), config, weights=weights, progress=progress)
    assert result.program is not None
    return result.program.module(check_guards=False)


class InFloat16(nn.Module):
    """A network in eval mode as float16 would compute it: weights and the result of every operator are rounded to
    float16 (what overflows is infinite), while each operator itself computes in float32.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.half())

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes], float32."""
        with _Rounding():
            return self.model(images.half().float())


class _Rounding(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.is_mutable:  # what is written in place is rounded in place, else it would be another tensor
            with torch.no_grad():
                tree_map_only(Tensor, lambda tensor: tensor.copy_(_rounded(tensor)), result)
            return result
        return tree_map_only(Tensor, _rounded, result)


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.half().float() if tensor.dtype == torch.float32 else tensor
