"""Trees of image files, `<class>/<file>`, in a folder or in a zip that is read in place."""

import io
import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from subp_contract.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
TRAIN_FOLDERS, VAL_FOLDERS = ("train",), ("val", "valid", "validation", "test")
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, RuntimeError),  # what PIL raises of damaged files
    *(zipfile.BadZipFile, Image.DecompressionBombError),
)


def open_image(file: bytes | Path) -> Image.Image:
    """The image in a file, or in a file's content, decoded; one of 16 bits a pixel scaled to 8.

    Raises UserError, naming the file, where that cannot be done.
    """
    name = "" if isinstance(file, bytes) else f"{file}: "
    try:
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        image.load()
    except UnidentifiedImageError as error:  # PIL would name an object in memory
        raise UserError(f"{name}it is no image of a known format") from error
    except UNREADABLE as error:
        raise UserError(f"{name}{error}") from error
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image


class Folder:
    """The image files under a folder, by names relative to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Sorted."""
        names = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            names += [Path(folder, file).relative_to(self.path).as_posix() for file in files]
        return sorted(filter(_is_image, names))

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders that lie directly in the one of that prefix."""
        return [entry.name for entry in os.scandir(self.path / prefix) if entry.is_dir()]

    def read(self, name: str) -> bytes:
        """The content of the file of that name."""
        return (self.path / name).read_bytes()

    def __str__(self) -> str:
        return str(self.path)


class Zip:
    """The image files in a zip. Every process opens it for itself: handles that cross a fork share their position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by the process of that id

    def names(self) -> list[str]:
        """Sorted."""
        return sorted(filter(_is_image, self._zip().namelist()))

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders that lie directly in the one of that prefix."""
        inside = (name.removeprefix(prefix) for name in self._zip().namelist() if name.startswith(prefix))
        return sorted({folder for folder, slash, _ in (name.partition("/") for name in inside) if slash})

    def read(self, name: str) -> bytes:
        """The content of the file of that name."""
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
        for name, parts in zip(names, inner, strict=True):
            if len(parts) < 2:
                raise UserError(
                    f"{files}: the image {name} lies in no class folder; images are laid out as <class>/<file>"
                )
        self.classes = sorted({parts[0] for parts in inner})
        for folder in files.folders(prefix):
            if folder not in self.classes and not _is_hidden(PurePosixPath(folder)):
                raise UserError(
                    f"{files}: the class folder {prefix}{folder} holds no images: put some in, or take the folder away"
                )
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers[parts[0]] for parts in inner]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name = self.names[index]
        try:
            image = open_image(self.files.read(name))
        except UNREADABLE as error:
            raise UserError(f"cannot read the image {name} in {self.files}: {error}") from error
        return image, self.labels[index]


def image_parts(files: Folder | Zip) -> list[ImageFiles]:
    """[train, val] where the tree has such folders; otherwise [all of it], or of the one of them that there is.

    A single folder around all of that is left out.
    """
    names = files.names()
    if not names:
        raise UserError(f"{files} holds no images (looked for {', '.join(sorted(SUFFIXES))})")
    prefix = _common_folders(names)
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
    train = next((folder for folder in TRAIN_FOLDERS if folder in by_folder), None)
    val = next((folder for folder in VAL_FOLDERS if folder in by_folder), None)
    if train and val:
        return [ImageFiles(files, f"{prefix}{folder}/", by_folder[folder]) for folder in (train, val)]
    return [ImageFiles(files, prefix, names)]


def _common_folders(names: list[str]) -> str:
    """The folders, each the only one of its level, around all class folders: "", "pets/", "pets/train/"."""
    parts = [PurePosixPath(name).parts for name in names]
    depth = 0
    while all(len(path) > depth + 2 for path in parts) and len({path[depth] for path in parts}) == 1:
        depth += 1
    return "".join(f"{folder}/" for folder in parts[0][:depth])


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not _is_hidden(path)


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)
