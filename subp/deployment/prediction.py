"""Classes of image files, by a classifier: which files there are, what is likeliest of each, and tables of that."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subp.data.decoding import open_image
from subp.deployment.classifier import Classifier
from subp_contract.errors import UserError, require


@dataclass(frozen=True)
class Prediction:
    """Of one file: its logits [classes], and the likeliest (class, probability), that first which is most likely."""

    file: Path
    logits: np.ndarray
    likeliest: list[tuple[str, float]]

    def __str__(self) -> str:
        return "   ".join(f"{name} {share:.1%}" for name, share in self.likeliest)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files among the paths, and in place of each folder the images in it and its folders, sorted by name. Raises
    UserError for a path that does not exist, and for a folder without images.
    """
    from subp.data.images import Folder

    found = []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        inside = [path / name for name in Folder(path).names()] if path.is_dir() else [path]
        require(bool(inside), f"the folder {path} holds no images")
        found += inside
    return found


def predictions(classifier: Classifier, files: Iterable[Path], top: int) -> Iterator[Prediction]:
    """What each image is taken for, in as many at a time as the network takes. Raises UserError for a file that is no
    image, naming it.
    """
    held: list[Path] = []
    images: list[np.ndarray] = []
    for file in files:
        held.append(file)
        images.append(classifier.preprocessing(open_image(file)))
        if len(held) == classifier.batch:
            yield from _of_batch(classifier, held, images, top)
            held, images = [], []
    if held:
        yield from _of_batch(classifier, held, images, top)


def _of_batch(classifier: Classifier, files: list[Path], images: list[np.ndarray], top: int) -> Iterator[Prediction]:
    for file, logits in zip(files, classifier.logits(np.stack(images)), strict=True):
        yield Prediction(file, logits, likeliest(logits, classifier.classes, top))


def likeliest(logits: np.ndarray, classes: Sequence[str] | None, top: int) -> list[tuple[str, float]]:
    """(class, probability) of the `top` largest logits [classes], largest first; classes without names by number."""
    exponentials = np.exp(logits - logits.max(), dtype="float64")
    order = np.argsort(-exponentials, kind="stable")[:top]
    return [(classes[i] if classes else str(i), float(exponentials[i] / exponentials.sum())) for i in order]


def as_csv(made: Sequence[Prediction]) -> bytes:
    """A row a file: file, class_1, probability_1, class_2, ..."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    count = len(made[0].likeliest)
    rows.writerow(["file", *(f"{name}_{rank + 1}" for rank in range(count) for name in ("class", "probability"))])
    for each in made:
        rows.writerow([each.file, *(cell for name, share in each.likeliest for cell in (name, f"{share:.6f}"))])
    return text.getvalue().encode()


def as_json(made: Sequence[Prediction]) -> bytes:
    """`common.provenance`, and "images": a {"file", "classes": [{"class", "probability"}]} each."""
    from subp.common.provenance import provenance

    images = [
        {"file": str(each.file), "classes": [{"class": name, "probability": share} for name, share in each.likeliest]}
        for each in made
    ]
    return json.dumps(provenance() | {"images": images}, indent=2).encode()


def as_npy(made: Sequence[Prediction]) -> bytes:
    """The logits [files, classes], as .npy."""
    file = io.BytesIO()
    np.save(file, np.stack([each.logits for each in made]))
    return file.getvalue()


def as_npz(made: Sequence[Prediction]) -> bytes:
    """The logits [files, classes] and the files' names, as .npz."""
    file = io.BytesIO()
    np.savez(file, logits=np.stack([each.logits for each in made]), files=[str(each.file) for each in made])
    return file.getvalue()


WRITERS: dict[str, Callable[[Sequence[Prediction]], bytes]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".npy": as_npy,
    ".npz": as_npz,
}
