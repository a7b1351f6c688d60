"""Image data for classification: `datasets(spec)` by path or name, `digits()` without files, `from_tensors` for yours.

All give a `Data`: a training and a validation set of (image, label) as stored, and how to make inputs of the images.
The loaders below turn them into batches, augmented and shuffled by (seed, epoch) alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from subp import idx, named_datasets, transforms
from subp.errors import UserError, require
from subp.images import TRAIN_FOLDERS, VAL_FOLDERS, Folder, ImageFiles, Zip, image_parts
from subp.seeds import derived_seed, generator
from subp.transforms import Preprocessing

_LOOKED_AT = 32  # images, to tell whether all are grey
VAL_FRACTION = 0.2  # of each class, where the data come in one part


@dataclass(frozen=True)
class Data:
    """train, val: items (PIL image or tensor [C, H, W], label); mirror: whether mirroring an image keeps its class."""

    train: Dataset
    val: Dataset
    classes: list[str]
    preprocessing: Preprocessing
    mirror: bool


def datasets(spec: str | Path, *, size: int | None = None, seed: int = 0, download: bool = False) -> Data:
    """The data that `spec` names:

    - a folder or a zip of images <class>/<file>, in train/ and val/ (or test/), or all in one: split 80 to 20
    - a folder with train.zip and val.zip (or test.zip) of such
    - a folder with MNIST's idx files, .gz or not
    - digits: scikit-learn's handwritten digits
    - CIFAR10:FOLDER, and so on: torchvision's data set in that folder; fetched only where `download` is set

    size:  of the inputs in pixels; None: the first image's shorter side, 224 at most
    Raises UserError for a path or name that is none of these, and for data that cannot be used.
    """
    path, (name, _, root) = Path(spec), str(spec).partition(":")
    if path.is_dir():
        data = _folder(path, size, seed)
    elif path.is_file():
        if path.suffix.lower() != ".zip":
            raise UserError(f"{path} is neither a folder nor a .zip of images")
        data = _images(image_parts(Zip(path)), size, seed)
    elif name == "digits":
        data = digits(size=size or 32, seed=seed)
    elif root:
        train, val, classes, mirror = named_datasets.load(name, Path(root), download)
        if val is None:
            train, val = _split(train, named_datasets.labels(train), seed)
        data = _described(train, val, classes, size, mirror)
    else:
        raise UserError(
            f"there is no folder or zip {spec} (torchvision's data sets are given as NAME:FOLDER, e.g. CIFAR10:data)"
        )
    if len(data.classes) < 2:
        raise UserError(f"{spec} has one class only, {data.classes[0]!r}: at least two are needed")
    return data


def digits(*, size: int = 32, channels: int = 1, seed: int = 0) -> Data:
    """scikit-learn's 1797 handwritten digits, 8x8, upsampled bilinearly; `seed` chooses a fifth for validation."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear").expand(-1, channels, -1, -1)
    labels = torch.tensor(scans.target)
    train, val = stratified_split(labels.tolist(), seed)
    return from_tensors(
        (images[train], labels[train]), (images[val], labels[val]), [str(name) for name in scans.target_names]
    )


def from_tensors(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], classes: Sequence[str], mirror: bool = False
) -> Data:
    """Data in memory: (images [B, C, S, S], uint8 or float in [0, 1]; labels [B]) twice."""
    channels, size = train[0].shape[1], train[0].shape[-1]
    require(channels in (1, 3), f"images have 1 or 3 channels, grey or colour, not {channels}")
    return Data(
        TensorDataset(*train), TensorDataset(*val), list(classes), Preprocessing.standard(size, channels), mirror
    )


def stratified_split(labels: Sequence[int], seed: int, fraction: float = VAL_FRACTION) -> tuple[list[int], list[int]]:
    """(training, validation) indices, ascending; of each class `fraction`, rounded, at least one, is for validation.

    The only one of a class stays in training.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    val: set[int] = set()
    draws = generator(seed, "split")
    for label in sorted(by_class):
        members = by_class[label]
        count = max(1, round(fraction * len(members))) if len(members) > 1 else 0
        order = torch.randperm(len(members), generator=draws)[:count]
        val.update(members[i] for i in order.tolist())
    return [i for i in range(len(labels)) if i not in val], sorted(val)


def train_batches(
    data: Data, epoch: int, *, seed: int, batch_size: int, workers: int = 0, pin: bool = False
) -> DataLoader:
    """(images [B, C, S, S], labels [B]) of one epoch, shuffled and augmented by (seed, epoch), whatever `workers`.

    The last, incomplete batch is left out unless it is the only one.
    """
    transform = transforms.augmentation(data.preprocessing, data.mirror)
    order = torch.randperm(len(data.train), generator=generator(seed, "order", epoch)).tolist()
    inputs = _Inputs(data.train, transform, (seed, "augmentation", epoch))
    return _loader(inputs, batch_size, workers, pin, sampler=order, drop_last=len(order) > batch_size)


def val_batches(data: Data, *, batch_size: int, workers: int = 0, pin: bool = False) -> DataLoader:
    """(images, labels) of the whole validation set, in order."""
    return _loader(_Inputs(data.val, transforms.evaluation(data.preprocessing), ()), batch_size, workers, pin)


def batches(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; a UserError in a worker process is told as it was raised, without a traceback in front."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")) from error


class _Inputs(Dataset):
    """(input, label) of a data set's items; the transform's randomness is seeded by `seed` and the item's index."""

    def __init__(self, items: Dataset, transform: transforms.Transform, seed: tuple[int | str, ...]) -> None:
        self.items, self.transform, self.seed = items, transform, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.items[index]
        if not self.seed:
            return self.transform(image), int(label)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(*self.seed, index))
            return self.transform(image), int(label)


def _loader(inputs: Dataset, batch_size: int, workers: int, pin: bool, **order) -> DataLoader:
    # With a generator of its own the loader draws nothing from the global one.
    return DataLoader(inputs, batch_size, num_workers=workers, pin_memory=pin, generator=torch.Generator(), **order)


def _folder(path: Path, size: int | None, seed: int) -> Data:
    if idx.find(path, idx.TRAIN, "images-idx3"):
        train, val = (idx.dataset(path, part) for part in (idx.TRAIN, idx.VAL))
        classes = [str(label) for label in range(int(train.tensors[1].max()) + 1)]
        return _described(train, val, classes, size, mirror=False)
    zips = [
        next((path / f"{name}.zip" for name in names if (path / f"{name}.zip").is_file()), None)
        for names in (TRAIN_FOLDERS, VAL_FOLDERS)
    ]
    if zips[0] is None:
        return _images(image_parts(Folder(path)), size, seed)
    return _images([part for file in zips if file for part in image_parts(Zip(file))], size, seed)


def _images(parts: list[ImageFiles], size: int | None, seed: int) -> Data:
    train = parts[0]
    if len(parts) > 1 and parts[1].classes != train.classes:
        missing = sorted(set(train.classes) ^ set(parts[1].classes))
        raise UserError(
            f"training and validation images in {train.files} differ in their classes: {', '.join(missing)} in one only"
        )
    subsets = parts[:2] if len(parts) > 1 else _split(train, train.labels, seed)
    return _described(*subsets, train.classes, size, mirror=True)


def _split(items: Dataset, labels: Sequence[int], seed: int) -> tuple[Dataset, Dataset]:
    train, val = stratified_split(labels, seed)
    return Subset(items, train), Subset(items, val)


def _described(train: Dataset, val: Dataset, classes: list[str], size: int | None, mirror: bool) -> Data:
    if not len(train) or not len(val):
        raise UserError("there are too few images for a training and a validation set")
    first = train[0][0]
    height, width = first.shape[-2:] if isinstance(first, Tensor) else first.size[::-1]
    looks = min(len(train), _LOOKED_AT)
    grey = all(_is_grey(train[look * len(train) // looks][0]) for look in range(looks))
    return Data(train, val, classes, Preprocessing.standard(size or min(height, width, 224), 1 if grey else 3), mirror)


def _is_grey(image) -> bool:
    return image.shape[0] == 1 if isinstance(image, Tensor) else image.mode in ("1", "L")
