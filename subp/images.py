"""Trees of image files, `<class>/<file>`, in a folder or in a zip that is read in place."""

import io
import os
import zipfile
from pathlib import Path, PurePosixPath

from PIL import Image
from torch.utils.data import Dataset

from subp.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
TRAIN, VAL = ("train",), ("val", "valid", "validation", "test")


class Folder:
    """The image files under a folder, by names relative to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        names = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            names += [Path(folder, file).relative_to(self.path).as_posix() for file in files]
        return sorted(filter(_is_image, names))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def __str__(self) -> str:
        return str(self.path)


class Zip:
    """The image files in a zip. Every process opens it for itself: handles that cross a fork share their position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by the process of that id

    def names(self) -> list[str]:
        return sorted(filter(_is_image, self._zip().namelist()))

    def read(self, name: str) -> bytes:
        return self._zip().read(name)

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise UserError(f"{self.path} is not a zip file, or truncated ({error})") from error
        return self._opened[1]

    def __getstate__(self) -> dict:
        return {"path": self.path, "_opened": None}

    def __str__(self) -> str:
        return str(self.path)


class ImageFiles(Dataset):
    """(PIL image, class index) for each of `names` in `files`. A name is <prefix><class>/<file>; the prefix, such as
    "train/", may be empty. Classes are numbered in alphabetical order. An image that cannot be read is a UserError that
    names it.
    """

    def __init__(self, files: Folder | Zip, prefix: str, names: list[str]) -> None:
        self.files, self.names = files, names
        inner = [PurePosixPath(name.removeprefix(prefix)).parts for name in names]
        for name, parts in zip(names, inner):
            if len(parts) < 2:
                raise UserError(
                    f"{files}: the image {name} lies in no class folder; images are laid out as <class>/<file>"
                )
        self.classes = sorted({parts[0] for parts in inner})
        self.labels = [self.classes.index(parts[0]) for parts in inner]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name = self.names[index]
        try:
            image = Image.open(io.BytesIO(self.files.read(name)))
            image.load()
        except (
            OSError,
            SyntaxError,
            ValueError,
            RuntimeError,
            zipfile.BadZipFile,
            Image.DecompressionBombError,
        ) as error:
            raise UserError(f"cannot read the image {name} in {self.files}: {error}") from error
        return image, self.labels[index]


def image_parts(files: Folder | Zip) -> list[ImageFiles]:
    """[train, val] where the tree has such folders, at its top or below the only one there; otherwise [all of it]."""
    names = files.names()
    if not names:
        raise UserError(f"{files} holds no images (looked for {', '.join(sorted(SUFFIXES))})")
    tops = {name.partition("/")[0] for name in names}
    candidates = ["", f"{tops.pop()}/"] if len(tops) == 1 else [""]
    for prefix in candidates:
        by_folder: dict[str, list[str]] = {}
        for name in names:
            by_folder.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
        train = next((folder for folder in TRAIN if folder in by_folder), None)
        val = next((folder for folder in VAL if folder in by_folder), None)
        if train and val:
            return [ImageFiles(files, f"{prefix}{folder}/", by_folder[folder]) for folder in (train, val)]
    return [ImageFiles(files, "", names)]


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden
