"""Which folders (or zips) are the training and the validation part of a data set, by their names."""

import re
from collections.abc import Collection, Iterable

from subp_contract.errors import UserError

# In the order in which they are taken.
TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_FILLERS = {"set", "data", "dataset", "image", "images", "img", "imgs", "part", "split"}
_GLUED = re.compile(rf"({'|'.join(sorted(TRAIN + VAL, key=len, reverse=True))})({'|'.join(sorted(_FILLERS))})")


def find_parts(names: Collection[str]) -> tuple[str, str] | None:
    """(training part, validation part) among the names: "train" and "val", or words that say so in any case, with the
    same words around them, such as "Train" and "Test", "seg_train" and "seg_test", "train_images" and "testImages".
    None where there are not both.
    """
    pairs = [
        (TRAIN.index(train), VAL.index(val), name, other)
        for name in sorted(names)
        for other in sorted(names)
        for train, of_train in _readings(name, TRAIN)
        for val, of_val in _readings(other, VAL)
        if of_train == of_val
    ]
    return min(pairs)[2:] if pairs else None


def require_classes(names: Iterable[str], where: str) -> None:
    """Raises UserError where image files (class/file, or deeper) are in parts whose names are not understood: a folder
    beside others is called as a part is, and holds the same folders as one of them.
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        top, *folders = name.split("/")[:-1] or [""]
        inside.setdefault(top, set()).update(folders[:1])
    for top, folders in inside.items():
        if any(True for of in (TRAIN, VAL) for _ in _readings(top, of)):
            twin = next((other for other in inside if other != top and len(inside[other] & folders) > 1), None)
            if twin is not None:
                raise UserError(
                    f"{where}: {top} and {twin} hold the same folders, as parts of a data set do, not classes: call "
                    "the part to train on train and the one to validate on val"
                )


def _readings(name: str, roles: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """(a role that one of the name's words is, its other words) for each such word."""
    words = [word for glued in _WORD.findall(name) for word in _unglued(glued.lower())]
    return [
        (word, tuple(other for place, other in enumerate(words) if place != at and other not in _FILLERS))
        for at, word in enumerate(words)
        if word in roles
    ]


def _unglued(word: str) -> Iterable[str]:
    match = _GLUED.fullmatch(word)
    return match.groups() if match else (word,)
