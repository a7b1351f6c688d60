"""Image data for classification: `datasets(spec)` by path or name, `digits()` without files, `from_tensors` for yours.

All give a `Data`: a training and a validation set of (image, label) as stored, and how to make inputs of the images.
The loaders below turn them into batches, augmented and shuffled by (seed, epoch) alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    TensorDataset,
)

from subp.common.seeds import derived_seed, generator
from subp.data import idx, named_datasets, transforms
from subp.data.batch_transforms import BatchTransform, Evaluation, OneByOne, ShiftAndMirror
from subp.data.decoding import UNREADABLE
from subp.data.images import Folder, ImageFiles, Zip, image_parts
from subp.data.inputs import Inputs, as_it_is
from subp.data.labels import class_numbers
from subp.data.parts import TRAIN, find_parts
from subp.data.preprocessing import Preprocessing
from subp_contract.errors import UserError, require

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


def datasets(
    spec: str | Path, *, size: int | None = None, seed: int = 0, download: bool = False, skip_broken: bool = False
) -> Data:
    """The data that `spec` names:

    - a folder or a zip of images <class>/<file>, in train/ and val/ (or test/, or the like: parts.py), or all in one:
      split 80 to 20
    - a folder with train.zip and val.zip (or the like) of such
    - a folder with MNIST's idx files, .gz or not
    - digits: scikit-learn's handwritten digits
    - CIFAR10:FOLDER, and so on: torchvision's data set in that folder; fetched only where `download` is set

    size:         of the inputs in pixels; None: the first image's shorter side, 224 at most
    skip_broken:  do not mind images that cannot be read among the few that are looked at here

    Raises UserError for a path or name that is none of these, and for data that cannot be used.
    """
    path, (name, _, root) = Path(spec), str(spec).partition(":")
    if path.is_dir():
        data = _folder(path, size, seed, skip_broken)
    elif path.is_file():
        if path.suffix.lower() != ".zip":
            raise UserError(f"{path} is neither a folder nor a .zip of images")
        data = _images(image_parts(Zip(path)), size, seed, skip_broken)
    elif name == "digits":
        data = digits(size=size or 32, seed=seed)
    elif root:
        train, val, classes, mirror = named_datasets.load(name, Path(root), download)
        if val is None:
            train, val = _split(train, named_datasets.labels(train), seed)
        data = _described(train, val, classes, size, mirror, skip_broken)
    else:
        raise UserError(
            f"there is no folder or zip {spec} (torchvision's data sets are given as NAME:FOLDER, e.g. CIFAR10:data)"
        )
    if len(data.classes) < 2:
        raise UserError(f"{spec} has one class only, {data.classes[0]!r}: at least two are needed")
    return data


def digits(*, size: int = 32, channels: int = 1, seed: int = 0) -> Data:
    """scikit-learn's 1797 handwritten digits, 8x8, upsampled bilinearly; `seed` chooses a fifth for validation."""
    scans = torch.from_numpy(_scans())
    images = scans[:, :-1].view(-1, 1, 8, 8).float() / 16
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear").expand(-1, channels, -1, -1)
    labels = scans[:, -1].long()
    train, val = stratified_split(labels.tolist(), seed)
    return from_tensors((images[train], labels[train]), (images[val], labels[val]), [str(name) for name in range(10)])


def _scans() -> np.ndarray:
    """[1797, 65]: the digits' pixels, row by row, and their class. From scikit-learn's file where it lies there: to
    import scikit-learn takes a second.
    """
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else Path()
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))


def from_tensors(
    train: tuple[ArrayLike, ArrayLike], val: tuple[ArrayLike, ArrayLike], classes: Sequence[str], mirror: bool = False
) -> Data:
    """Data in memory: (images [B, C, S, S], uint8 or float in [0, 1]; labels [B]) twice, as tensors, arrays or lists.

    Raises UserError for images or labels (labels.py) that are of another kind.
    """
    parts = []
    for images, labels in (train, val):
        pixels = torch.as_tensor(images)
        require(
            pixels.ndim == 4 and (pixels.dtype == torch.uint8 or pixels.is_floating_point()),
            f"images are [B, C, S, S], uint8 or fractions, not {list(pixels.shape)} of {pixels.dtype}",
        )
        channels = pixels.shape[1]
        require(channels in (1, 3), f"images have 1 or 3 channels, grey or colour, not {channels}")
        parts.append((pixels, class_numbers(labels, len(pixels), classes)))
    (pixels, _), _ = parts
    preprocessing = Preprocessing.standard(pixels.shape[-1], pixels.shape[1])
    return Data(TensorDataset(*parts[0]), TensorDataset(*parts[1]), list(classes), preprocessing, mirror)


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


@dataclass(frozen=True)
class Loading:
    """How batches are loaded, and which share of them this process has of several that train together.

    batch_size:   images in a batch of one process
    workers:      processes that load; 0 loads in this one
    pin:          into memory from which a GPU copies fast
    skip_broken:  do without images that cannot be read, and tell of each; otherwise one ends the run. In training the
                  next one of the data set that can be read stands in for it: batches stay whole, and ranks in step
    rank, ranks:  this process's number and how many there are
    """

    batch_size: int
    workers: int = 0
    pin: bool = False
    skip_broken: bool = False
    rank: int = 0
    ranks: int = 1


def train_batches(
    data: Data, epoch: int, loading: Loading, *, seed: int, auto_augment: str | None = None, random_erase: float = 0.0
) -> DataLoader:
    """(images [B, C, S, S], labels [B], why others stand in for some) of one epoch, shuffled and augmented by (seed,
    epoch) alone, whatever the number of workers.

    The k-th batches of all ranks together are the k-th batch that one process would have. The last, incomplete batch is
    left out unless it is the only one.
    """
    about, draws = data.preprocessing, (seed, "augmentation", epoch)
    transform: BatchTransform
    if about.size > transforms.SMALL or auto_augment:
        transform = OneByOne(transforms.augmentation(about, data.mirror, auto_augment, random_erase), draws)
    else:
        transform = ShiftAndMirror(about, data.mirror, random_erase, draws, len(data.train))
    inputs = Inputs(data.train, transform, loading.skip_broken, replace=True)
    order = DistributedSampler(inputs, loading.ranks, loading.rank, seed=derived_seed(seed, "order", epoch))
    return _loader(inputs, loading, order, drop_last=len(order) > loading.batch_size)


def train_batch_size(data: Data, loading: Loading) -> int:
    """Images in each batch of `train_batches`."""
    return min(loading.batch_size, -(-len(data.train) // loading.ranks))


def val_batches(data: Data, loading: Loading) -> DataLoader:
    """(images, labels, why some were left out) of this rank's share of the validation set, in order."""
    inputs = Inputs(data.val, Evaluation(data.preprocessing), loading.skip_broken, replace=False)
    return _loader(inputs, loading, range(loading.rank, len(inputs), loading.ranks))


def batches(loader: DataLoader, tell: Callable[[str], None] = lambda sentence: None) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches (images, labels); `tell` is told of each image that could not be read.

    A UserError in a worker process is raised as it was there, without a traceback in front.
    """
    try:
        for images, labels, broken in loader:
            for sentence in broken:
                tell(sentence)
            if len(labels):
                yield images, labels
    except UserError as error:
        name = f"{UserError.__module__}.{UserError.__qualname__}: "
        raise UserError(str(error).splitlines()[-1].removeprefix(name)) from error


def mixed(
    inputs: Iterable[tuple[Tensor, Tensor]], mixing: transforms.Mixing, *seed: int | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, each mixed (see transforms.mixing) by draws that the seed and its number determine."""
    for number, (images, labels) in enumerate(inputs):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(*seed, number))
            images, labels = mixing(images, labels)
        yield images, labels


def _loader(inputs: Dataset, loading: Loading, order: Iterable[int], drop_last: bool = False) -> DataLoader:
    return DataLoader(
        inputs,
        loading.batch_size,
        sampler=order,
        num_workers=loading.workers,
        pin_memory=loading.pin,
        drop_last=drop_last,
        collate_fn=as_it_is,
        generator=torch.Generator(),  # of its own, so that nothing is drawn from the global one
    )


def _folder(path: Path, size: int | None, seed: int, skip_broken: bool) -> Data:
    if idx.find(path, idx.TRAIN, "images-idx3"):
        train, val = (idx.dataset(path, part) for part in (idx.TRAIN, idx.VAL))
        classes = [str(label) for label in range(int(train.tensors[1].max()) + 1)]
        class_numbers(val.tensors[1], len(val), classes)
        return _described(train, val, classes, size, False, skip_broken)
    zips = {zipped.stem: zipped for zipped in sorted(path.iterdir()) if zipped.suffix.lower() == ".zip"}
    parts: Sequence[str] = find_parts(zips) or [name for name in zips if name.lower() in TRAIN][:1]
    if not parts:
        return _images(image_parts(Folder(path)), size, seed, skip_broken)
    return _images([part for name in parts for part in image_parts(Zip(zips[name]))], size, seed, skip_broken)


def _images(parts: list[ImageFiles], size: int | None, seed: int, skip_broken: bool) -> Data:
    train = parts[0]
    if len(parts) > 1 and parts[1].classes != train.classes:
        classes = {"training": set(train.classes), "validation": set(parts[1].classes)}
        alone = {part: sorted(names - set.intersection(*classes.values())) for part, names in classes.items()}
        told = " and ".join(f"{', '.join(names)} only in {part}" for part, names in alone.items() if names)
        raise UserError(f"training and validation images in {train.files} differ in their classes: {told}")
    subsets = parts[:2] if len(parts) > 1 else _split(train, train.labels, seed)
    return _described(*subsets, train.classes, size, True, skip_broken)


def _split(items: Dataset, labels: Sequence[int], seed: int) -> tuple[Dataset, Dataset]:
    train, val = stratified_split(labels, seed)
    return Subset(items, train), Subset(items, val)


def _described(
    train: Dataset, val: Dataset, classes: list[str], size: int | None, mirror: bool, skip_broken: bool
) -> Data:
    if not len(train) or not len(val):
        raise UserError("there are too few images for a training and a validation set")
    images = _looked_at(train, skip_broken)
    first = next(images, None)
    if first is None:
        raise UserError("none of the training images looked at can be read")
    height, width = first.shape[-2:] if isinstance(first, Tensor) else first.size[::-1]
    grey = _is_grey(first) and all(map(_is_grey, images))
    return Data(train, val, classes, Preprocessing.standard(size or min(height, width, 224), 1 if grey else 3), mirror)


def _looked_at(items: Dataset, skip_broken: bool) -> Iterator:
    """A few images, spread over all."""
    looks = min(len(items), _LOOKED_AT)
    for look in range(looks):
        try:
            yield items[look * len(items) // looks][0]
        except UNREADABLE:
            if not skip_broken:
                raise


def _is_grey(image) -> bool:
    return image.shape[0] == 1 if isinstance(image, Tensor) else image.mode in ("1", "L")
