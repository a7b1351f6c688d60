"""Comparing methods: a grid of cells, each one training run by the ordinary trainer and one row of a CSV file.

A grid is a file of YAML or JSON: {"defaults": {field: value}, "cells": [{field: value or list of values}, ...]}, the
fields being those of `Cell`. A list, outside `options`, makes a cell for each of its values; a cell's options add to
the defaults'. Cells run in the order of the file, so the important ones come first. A cell that has its row is not run
again. With "seeds", cells that are judged on validation images and differ in their learning rate alone are trials: when
all of them have their rows, the best is judged on the test images with each of these seeds (`Plan`).

Accuracy is that of the last epoch, on all images of the part that the cell is judged on; `pretrain_epochs` of a cell's
`epochs` train the dense network that a one-shot method begins with, so equal `epochs` are equal work.
"""

import csv
import fcntl
import functools
import hashlib
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
import yaml
from torch import Tensor

from subp import models
from subp.data import named_datasets, transforms
from subp.data.loaders import Data, datasets, from_tensors, stratified_split
from subp.pruning.budget.macs import count_macs
from subp.pruning.masking import weight_of
from subp.pruning.methods import DENSE
from subp.pruning.selection import all_places
from subp.pruning.settings import PruningOptions, flat
from subp.training.config import Config
from subp.training.run_files import CHECKPOINT, MODEL
from subp.training.trainer import train
from subp_contract.documents import LARGEST, of_kind, read_json, shown
from subp_contract.errors import UserError, require
from subp_contract.files import read_file, write_atomically

TRAINED = "trained.json"  # what the row of a trained cell holds
WATCHED = 500  # validation images after each epoch; all of them after the last

# A dense network's folder is named by a hash of the values of these settings, in this order, and of those added since,
# where they are not at their default: another order would find no folder again, and train all of them anew.
NAMED_BY = """
    model method n m sparsity target_macs target_weights allocation criterion scoring schedule start end tau alpha
    soft decay rearrange exclude include epochs batch_size lr weight_decay label_smoothing warmup_epochs mixup
    cutmix random_erase auto_augment ema accumulate amp channels_last compile sparse_compute seed workers device
    skip_broken tensorboard
"""


@dataclass(frozen=True)
class Cell:
    """One run.

    data:             a folder's name under the root, or "digits"
    size:             images are resized to size x size pixels once, before training
    train_images:     so many of the training images, the same share of each class
    held_out:         so many of the training images, the same share of each class, are kept from training; the same for
                      all cells
    judged_on:        "test", the data set's own test images; or "validation", those held out
    pretrain_epochs:  of `epochs`, dense, at `pretrain_lr`; 0: none
    variant:          what the cell is to show, where method, n and sparsity do not tell
    options:          further settings of the training, by name, such as {"tau": 1.0}
    """

    data: str
    network: str
    method: str
    n: int
    sparsity: float
    epochs: int
    seed: int
    size: int
    train_images: int
    batch_size: int
    lr: float
    held_out: int = 0
    judged_on: str = "test"
    pretrain_epochs: int = 0
    pretrain_lr: float = 0.1
    variant: str = ""
    options: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        require(
            self.judged_on == "test" or (self.judged_on == "validation" and self.held_out > 0),
            f"judged_on = {self.judged_on!r}, held_out = {self.held_out}: cells are judged on 'test', or "
            "on 'validation' with some images held out",
        )

    @property
    def key(self) -> str:
        """Of everything but the variant's name; where no images are held out, as before there were fields for it."""
        values = {**asdict(self), "variant": ""}
        if not self.held_out:
            del values["held_out"], values["judged_on"]
        content = json.dumps(values, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()

    @property
    def training_key(self) -> str:
        """Of what the network depends on: the same whichever images it is judged on."""
        return replace(self, judged_on="test").key

    @property
    def images(self) -> int:
        """Seen in training."""
        return self.epochs * self.train_images


class Grid(msgspec.Struct, forbid_unknown_fields=True):
    """What a grid's file holds."""

    cells: list[dict]
    defaults: dict = {}
    about: str = ""
    seeds: list[int] = []


@dataclass(frozen=True)
class Plan:
    """The cells that a grid's file lists, and the seeds with which the best of each set of trials is judged."""

    cells: list[Cell]
    seeds: tuple[int, ...] = ()

    def sets(self, rows: list[dict]) -> list[list[Cell]]:
        """All cells as far as these rows tell them, in sets that differ in their learning rate alone, each followed by
        what its best one is judged by.
        """
        accuracies = {row["cell"]: float(row["accuracy"]) for row in rows}
        alike: dict[Cell, list[Cell]] = {}
        for cell in self.cells:
            alike.setdefault(replace(cell, lr=0.0, variant=""), []).append(cell)
        return [[*cells, *self._judged(cells, accuracies)] for cells in alike.values()]

    def _judged(self, trials: list[Cell], accuracies: dict[str, float]) -> list[Cell]:
        if any(cell.judged_on == "test" or cell.key not in accuracies for cell in trials):
            return []
        best = max(trials, key=lambda cell: accuracies[cell.key])
        return [replace(best, seed=seed, judged_on="test") for seed in self.seeds]


COLUMNS = (
    *("cell", "data", "size", "train_images", "network", "method", "variant", "n", "sparsity", "epochs", "seed"),
    *("accuracy", "train_accuracy", "density", "mac_share", "images_per_s", "seconds", "options"),
    *("held_out", "judged_on"),
)
TOLD = ("network", "method", "n", "sparsity", "accuracy")  # what is asked of every file of results
NUMBERS = {"n": int, "sparsity": float, "accuracy": float}


class _Loader(yaml.SafeLoader):
    """Plain values without aliases, which could stand for each other a billion times, or for themselves."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, *NAME: write the values out")
        return super().compose_node(parent, index)


def read_grid(path: Path) -> list[Cell]:
    """The cells that a grid's file lists, in order. Raises UserError, saying where, for one that cannot be read."""
    return read_plan(path).cells


def read_plan(path: Path) -> Plan:
    """What a grid's file holds. Raises UserError, saying where, for one that cannot be read."""
    content = read_file(path, LARGEST)
    try:
        grid = of_kind(yaml.load(content, _Loader), Grid, f"the grid {path}")
        defaults = grid.get("defaults", {})
        entries = [
            defaults | entry | {"options": defaults.get("options", {}) | entry.get("options", {})}
            for entry in grid["cells"]
        ]
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a grid of cells: {shown(repr(error))}") from error
    cells = [cell for number, entry in enumerate(entries) for cell in _expanded(entry, f"cell {number + 1} of {path}")]
    return Plan(list({cell.key: cell for cell in cells}.values()), tuple(grid.get("seeds", ())))


def _expanded(entry: dict, where: str) -> Iterator[Cell]:
    names = {field.name for field in fields(Cell)}
    unknown = sorted(entry.keys() - names)
    require(not unknown, f"{where} has unknown fields: {', '.join(unknown)}")
    options = entry.get("options", {})
    fixed = Config.defaults().keys()
    require(
        isinstance(options, dict) and options.keys() <= fixed,
        f"{where} has options that `subp train` does not: {', '.join(sorted(set(options) - fixed))}",
    )
    frozen = tuple(
        sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items())
    )
    choices = [value if isinstance(value, list) else [value] for name, value in entry.items() if name != "options"]
    for values in itertools.product(*choices):
        given = dict(zip((name for name in entry if name != "options"), values, strict=True))
        try:
            yield Cell(**given, options=frozen)
        except TypeError as error:
            raise UserError(f"{where} is incomplete: {error}") from error


def run(cell: Cell, root: Path, work: Path, tell: Callable[[str], None] = lambda line: None) -> dict:
    """Trains the cell and returns its row. Networks are kept in `work`: one that is judged on other images is not
    trained again, one that was cut off goes on, and dense ones to begin with serve other cells too.
    """
    data, folder = load(cell, root), work / f"cell-{cell.training_key}"
    if not (folder / TRAINED).exists():
        about = _trained(cell, data, folder, work, tell)
        write_atomically(folder / TRAINED, json.dumps(about).encode())
    channels = data.preprocessing.shape[0]
    model = models.create(cell.network, len(data.classes), channels, folder / MODEL).eval()
    return {
        **{name: value for name, value in asdict(cell).items() if name in COLUMNS},
        **read_json(folder / TRAINED, dict[str, float]),
        "cell": cell.key,
        "accuracy": round(accuracy(model, data), 5),
        "options": json.dumps(
            dict(cell.options)
            | {name: getattr(cell, name) for name in ("batch_size", "lr", "pretrain_epochs", "pretrain_lr")}
        ),
    }


def _trained(cell: Cell, data: Data, folder: Path, work: Path, tell: Callable[[str], None]) -> dict:
    """Leaves the network in the folder; the part of its row that does not depend on what it is judged on."""
    started = time.perf_counter()
    common = {"model": cell.network, "batch_size": cell.batch_size, "seed": cell.seed}
    weights = _pretrained(cell, data, work, common, tell) if cell.pretrain_epochs else None
    config = Config.of(
        {
            **common,
            "method": cell.method,
            "n": cell.n,
            "sparsity": cell.sparsity,
            "epochs": cell.epochs - cell.pretrain_epochs,
            "lr": cell.lr,
            **dict(cell.options),
        }
    )
    resume = (folder / CHECKPOINT).exists()
    result = train(watched(data, cell.seed), config, weights=None if resume else weights, output=folder, resume=resume)
    (folder / CHECKPOINT).unlink()
    kept, macs = _shares(result.model, data)
    return {
        "train_accuracy": round(result.history[-1]["train_accuracy"], 5),
        "density": round(kept, 5),
        "mac_share": round(macs, 5),
        "images_per_s": round(sum(row["images_per_s"] for row in result.history) / len(result.history)),
        "seconds": round(time.perf_counter() - started),
    }


def _pretrained(cell: Cell, data: Data, work: Path, common: dict, tell: Callable[[str], None]) -> Path:
    require(
        cell.pretrain_epochs < cell.epochs, f"pretrain_epochs = {cell.pretrain_epochs} leaves none for {cell.method}"
    )
    needs_masks = {*flat(asdict(PruningOptions())), "sparse_compute"}
    options = {name: value for name, value in cell.options if name not in needs_masks}
    config = Config(**common, method=DENSE, epochs=cell.pretrain_epochs, lr=cell.pretrain_lr, **options)
    folder = work / f"dense-{dense_key(cell, config)}"
    if not (folder / MODEL).exists():
        tell(f"trains the dense network first: {folder}")
        resume = any(folder.glob("checkpoint*"))
        train(watched(data, cell.seed), config, output=folder, resume=resume)
    return folder / MODEL


def dense_key(cell: Cell, config: Config) -> str:
    """Names the dense network that a cell begins with."""
    values, defaults = config.as_dict(), Config.defaults()
    named = {name: values[name] for name in NAMED_BY.split()} | {
        name: value for name, value in values.items() if value != defaults.get(name)
    }
    named["sparse_compute"] = values["sparse_compute"] or False  # it was a flag once
    about: list = [cell.data, cell.size, cell.train_images, {name: str(value) for name, value in named.items()}]
    about += [cell.held_out] if cell.held_out else []
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=6).hexdigest()


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: Data) -> float:
    """Of the network, in eval mode, on all validation images; from 0 to 1."""
    images, labels = data.val.tensors
    held = itertools.chain(model.parameters(), model.buffers())  # a quantised network has buffers alone
    inputs, device = transforms.evaluation(data.preprocessing), next(held).device
    parts = zip(images.split(500), labels.split(500), strict=True)
    right = sum(int((model(inputs(some).to(device)).argmax(1).cpu() == of_some).sum()) for some, of_some in parts)
    return right / len(labels)


def _shares(model: torch.nn.Module, data: Data) -> tuple[float, float]:
    """(weights, multiply-accumulates) that are not zero, as shares of the dense network's."""
    places = all_places(model)
    macs = count_macs(model, places, data.preprocessing.shape)
    weights = {name: weight_of(*place) for name, place in places.items()}
    nonzero = {name: int(weight.count_nonzero()) / weight.numel() for name, weight in weights.items()}
    kept = sum(nonzero[name] * weight.numel() for name, weight in weights.items())
    kept_macs = sum(nonzero[name] * of_layer for name, of_layer in macs.items())
    return kept / sum(weight.numel() for weight in weights.values()), kept_macs / sum(macs.values())


def load(cell: Cell, root: Path) -> Data:
    """The cell's data in memory, resized: a stratified part of the training images; as validation images, all test
    images or, where the cell is judged on them, those held out.
    """
    return _loaded(root, cell.data, cell.size, cell.train_images, cell.held_out, cell.judged_on)


@functools.lru_cache(maxsize=2)  # cells that follow each other mostly have the same
def _loaded(root: Path, name: str, size: int, train_images: int, validation: int, judged_on: str) -> Data:
    data = datasets(name if name == "digits" else root / name, size=size)
    labels = named_datasets.labels(data.train)
    wanted = train_images + validation
    require(wanted <= len(labels), f"{name} has {len(labels)} training images, not {wanted}")
    rest, held_out = list(range(len(labels))), []
    if validation:
        rest, held_out = stratified_split(labels, 1, validation / len(labels))
    if train_images < len(rest):
        chosen = stratified_split([labels[index] for index in rest], 0, train_images / len(rest))[1]
        rest = [rest[index] for index in chosen]
    judged = (data.val, range(len(data.val))) if judged_on == "test" else (data.train, held_out)
    parts = [_tensors(data.train, rest, size), _tensors(*judged, size)]
    return from_tensors(*parts, data.classes, data.mirror)


def _tensors(items, indices, size: int) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(items[index] for index in indices), strict=True)
    return torch.stack([_pixels(image, size) for image in images]), torch.tensor([int(label) for label in labels])


def _pixels(image, size: int) -> Tensor:
    """[C, size, size]: uint8 of a PIL image; tensors, which have the size, as they are."""
    if isinstance(image, Tensor):
        return image
    # 2: bilinear, antialiased.
    pixels = torch.from_numpy(np.array(image.convert("RGB").resize((size, size), resample=2)))
    return pixels.permute(2, 0, 1).contiguous()


def watched(data: Data, seed: int, count: int = WATCHED) -> Data:
    """The same with so many of the validation images, which is enough to follow a run."""
    images, labels = data.val.tensors
    some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return from_tensors(data.train.tensors, (images[some], labels[some]), data.classes, data.mirror)


def read_rows(path: Path) -> list[dict]:
    """The rows of a CSV file of results, text by column; none where there is no file.

    Raises UserError for another file: a row has all of TOLD at least, and the NUMBERS among them can be read as such.
    """
    if not path.exists():
        return []
    try:
        text = io.StringIO(read_file(path, LARGEST).decode(), newline="")
        rows = list(reader := csv.DictReader(text))
        if not set(TOLD) <= set(reader.fieldnames or TOLD) or not all(
            row.get(column) is not None for row in rows for column in TOLD
        ):
            raise ValueError(f"a row needs {', '.join(TOLD)}")
        for row in rows:
            for column, kind in NUMBERS.items():
                kind(row[column])
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file of results: {shown(str(error))}") from error
    return rows


def add_row(path: Path, row: dict) -> None:
    """Adds a row, the file being replaced by a whole one; other processes may do the same at the same time."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = [*read_rows(path), row]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode())
