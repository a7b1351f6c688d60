"""Trees of image files, `<class>/<file>`, in a folder or in a zip that is read in place."""

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from subp.data.decoding import LARGEST, UNREADABLE, open_image
from subp.data.parts import find_parts, require_classes
from subp_contract.errors import Notice, UserError
from subp_contract.files import read_file, require_file, require_unpacked

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
}
# What systems, network drives and programs put beside files.
_HELPERS = {
    *("__macosx", "__pycache__", "lost+found", "system volume information", "thumbs.db", "desktop.ini"),
    *("@eadir", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot", "$recycle.bin"),
}


class Folder:
    """The image files under a folder, by names relative to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Sorted. Links are followed, but for those to a folder that the link itself lies in."""
        return _images_among(_walk("", Path(self.path).resolve(), ()), self)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders that lie directly in the one of that prefix."""
        folder = (self.path / prefix).resolve()
        return [entry.name for entry in os.scandir(folder) if entry.is_dir() and _target(entry, folder, (folder,))]

    def read(self, name: str) -> bytes:
        """The content of the file of that name."""
        return read_file(self.path / name, LARGEST)

    def __str__(self) -> str:
        return str(self.path)


class Zip:
    """The image files in a zip. Every process opens it for itself: handles that cross a fork share their position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by the process of that id

    def names(self) -> list[str]:
        """Sorted."""
        return _images_among((name for name in self._zip().namelist() if not name.endswith("/")), self)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders that lie directly in the one of that prefix."""
        inside = (name.removeprefix(prefix) for name in self._zip().namelist() if name.startswith(prefix))
        return sorted({folder for folder, slash, _ in (name.partition("/") for name in inside) if slash})

    def read(self, name: str) -> bytes:
        """The content of the file of that name."""
        archive = self._zip()
        about = archive.getinfo(name)
        require_unpacked(name, about.compress_size, about.file_size)
        with archive.open(about) as member:
            return member.read(about.file_size)

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(require_file(self.path, most=2**50))
            except zipfile.BadZipFile as error:
                raise UserError(f"{self.path} is not a zip file, or truncated ({error})") from error
        return self._opened[1]

    def __getstate__(self) -> dict:
        return {"path": self.path, "_opened": None}

    def __str__(self) -> str:
        return str(self.path)


class ImageFiles:
    """A data set for PyTorch's loaders: (PIL image, class index) for each of `names` in `files`. A name is
    <prefix><class>/<file>; the prefix, such as "train/", may be empty. Classes are numbered in alphabetical order. An
    image that cannot be read is a UserError that names it.
    """

    def __init__(self, files: Folder | Zip, prefix: str, names: list[str]) -> None:
        self.files, self.names, self.prefix = files, names, prefix
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
    """[train, val] where the tree has such folders (parts.py); otherwise [all of it], or of the one of them that there
    is.

    A single folder around all of that is left out.
    """
    names = files.names()
    if not names:
        raise UserError(f"{files} holds no images (looked for {', '.join(sorted(SUFFIXES))})")
    prefix = _common_folders(names)
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
    parts = find_parts(by_folder.keys())
    if parts:
        others = ", ".join(sorted(by_folder.keys() - set(parts)))
        if others:
            warnings.warn(f"{files}: images besides {' and '.join(parts)} are left out: {others}", Notice, 2)
        return [ImageFiles(files, f"{prefix}{folder}/", by_folder[folder]) for folder in parts]
    require_classes((name.removeprefix(prefix) for name in names), f"{files}")
    return [ImageFiles(files, prefix, names)]


def _common_folders(names: list[str]) -> str:
    """The folders, each the only one of its level, around all class folders: "", "pets/", "pets/train/"."""
    parts = [PurePosixPath(name).parts for name in names]
    depth = 0
    while all(len(path) > depth + 2 for path in parts) and len({path[depth] for path in parts}) == 1:
        depth += 1
    return "".join(f"{folder}/" for folder in parts[0][:depth])


def _walk(prefix: str, folder: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """The files below, by names that begin with the prefix; folder, above: where links really lead, from the top on."""
    within = (*above, folder)
    for entry in os.scandir(folder):
        if not entry.is_dir():
            yield prefix + entry.name
        elif not _is_helper(entry.name) and (target := _target(entry, folder, within)):
            yield from _walk(f"{prefix}{entry.name}/", target, within)


def _target(entry: os.DirEntry, folder: Path, within: tuple[Path, ...]) -> Path | None:
    """Where a folder's entry, itself a folder, really is; None for a link back to a folder around one of `within`."""
    if not entry.is_symlink():
        return folder / entry.name
    target = Path(entry.path).resolve()
    return None if any(target == path or target in path.parents for path in within) else target


def _images_among(names: Iterator[str], files: "Folder | Zip") -> list[str]:
    """Those of the files, sorted, that are images by their names; in class folders others are told of."""
    shown = [name for name in names if not _is_hidden(PurePosixPath(name))]
    images = sorted(name for name in shown if _suffix(name) in SUFFIXES)
    others = Counter(_suffix(name) or "no suffix" for name in shown if "/" in name and _suffix(name) not in SUFFIXES)
    if images and others:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(3))
        more = f" and {len(others) - 3} more kinds" if len(others) > 3 else ""
        warnings.warn(f"{files}: files are left out that are no images by their names: {kinds}{more}", Notice, 2)
    return images


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_hidden(path: PurePosixPath) -> bool:
    return any(map(_is_helper, path.parts))


def _is_helper(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HELPERS
