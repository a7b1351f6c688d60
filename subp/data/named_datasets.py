"""torchvision's own data set classes by name."""

import inspect
from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from subp.common.vision import import_torchvision
from subp_contract.errors import UserError

_NOT_MIRRORED = {"MNIST", "KMNIST", "QMNIST", "EMNIST", "SVHN", "USPS", "SEMEION", "Omniglot", "GTSRB", "RenderedSST2"}
_SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid", "test")}


def load(name: str, root: Path, download: bool) -> tuple[Dataset, Dataset | None, list[str], bool]:
    """(train, val, classes, mirror) of torchvision.datasets.<name>; val is None where it has one part only."""
    make = getattr(import_torchvision().datasets, name, None)
    if not inspect.isclass(make) or "root" not in inspect.signature(make).parameters:
        raise UserError(f"torchvision has no data set {name!r}; names are like CIFAR10, FashionMNIST, Food101")
    parameters = inspect.signature(make).parameters
    further = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    further = [parameter for parameter in further if parameter not in ("root", "train", "split")]
    if further:
        raise UserError(f"{name} cannot be given by name alone: it needs {', '.join(further)} too")
    options = {"root": str(root)} | ({"download": download} if "download" in parameters else {})
    if "train" in parameters:
        train, val = (_make(name, make, options | {"train": part}) for part in (True, False))
    elif "split" in parameters:
        train, val = (_first_split(name, make, options, spellings) for spellings in _SPLITS.values())
    else:
        train, val = _make(name, make, options), None
    if not isinstance(train[0][1], int):
        raise UserError(f"{name} is not a data set of images with one class each")
    classes = [str(c) for c in getattr(train, "classes", sorted(set(labels(train))))]
    return train, val, classes, name not in _NOT_MIRRORED


def labels(dataset: Dataset) -> list[int]:
    """The label of every item, from the attribute that the class keeps them in where there is one."""
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _make(name: str, make: Callable[..., Dataset], options: dict) -> Dataset:
    try:
        return make(**options)
    except (RuntimeError, FileNotFoundError) as error:
        if not options.get("download", True):
            raise UserError(f"{name} is not (whole) in {options['root']}: --download fetches it there") from error
        raise UserError(f"{name} is not (whole) in {options['root']}: {str(error).splitlines()[0]}") from error


def _first_split(name: str, make: Callable[..., Dataset], options: dict, spellings: tuple[str, ...]) -> Dataset:
    for spelling in spellings:
        try:
            return _make(name, make, options | {"split": spelling})
        except UserError:
            raise
        except ValueError:  # the class knows no such split
            continue
    raise UserError(f"{name} cannot be given by name alone: it has no split called {' or '.join(spellings)}")
