"""How well and how fast a classifier does on labelled images."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import ConcatDataset

from subp.data.loaders import Data, Loading, batches, val_batches
from subp.deployment.classifier import Classifier
from subp.deployment.quantised import require_classes
from subp_contract.errors import require

PARTS = ("val", "train", "all")
TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """What was found; shares are from 0 to 1."""

    network: str
    data: str
    part: str  # of the data, one of PARTS
    images: int
    classes: list[str]
    accuracy: float
    top5: float | None  # accuracy where the five likeliest classes count; None with five classes or less
    confusion: list[list[int]]  # images of the class in the row that are taken for the one in the column
    images_per_s: float  # in the network alone: nothing is loaded or prepared meanwhile

    @property
    def recalls(self) -> list[float]:
        """The share of each class that is recognised; NaN of one without images."""
        counts = np.array(self.confusion)
        with np.errstate(invalid="ignore"):
            return (np.diag(counts) / counts.sum(1)).tolist()

    def confused(self, most: int) -> list[tuple[str, str, int]]:
        """(class, taken for, images) of the most frequent mistakes, that first which happens most."""
        counts = np.array(self.confusion)
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(counts)) for place in order]
        return [
            (self.classes[row], self.classes[column], int(counts[row, column]))
            for row, column in pairs
            if counts[row, column]
        ]


def evaluate(
    classifier: Classifier,
    data: Data,
    name: str,
    part: str = "val",
    track: Callable[[Iterable, int], Iterable] | None = None,
) -> Evaluation:
    """The classifier on a part of the data, in the classifier's own preprocessing.

    track: wraps the batches, of which it is told the number, to show how far they are
    Raises UserError where the data's classes are not the classifier's.
    """
    from sklearn.metrics import confusion_matrix

    if classifier.classes:
        require_classes(name, data.classes, classifier.classes)
    chosen = {"val": data.val, "train": data.train, "all": ConcatDataset([data.train, data.val])}[part]
    loader = val_batches(replace(data, val=chosen, preprocessing=classifier.preprocessing), Loading(classifier.batch))
    labels, logits, seconds = [], [], 0.0
    for images, truth in track(batches(loader), len(loader)) if track else batches(loader):
        x = images.numpy()
        if not labels:
            classifier.logits(x)  # the first call makes buffers
        began = time.perf_counter()
        logits.append(classifier.logits(x))
        seconds += time.perf_counter() - began
        labels.append(truth.numpy())
    truth, scores = np.concatenate(labels), np.concatenate(logits)
    require(
        scores.ndim == 2 and scores.shape[1] == len(data.classes),
        f"{classifier.name} gives {list(scores.shape[1:])} numbers an image, {name} has {len(data.classes)} classes",
    )
    ranks = (scores > scores[np.arange(len(truth)), truth][:, None]).sum(
        1
    )  # classes that are likelier than the true one
    numbers = range(len(data.classes))
    return Evaluation(
        network=classifier.name,
        data=name,
        part=part,
        images=len(truth),
        classes=list(data.classes),
        accuracy=float((scores.argmax(1) == truth).mean()),
        top5=float((ranks < TOP).mean()) if len(data.classes) > TOP else None,
        confusion=confusion_matrix(truth, scores.argmax(1), labels=list(numbers)).tolist(),
        images_per_s=len(truth) / seconds,
    )
