"""Trees of files, in a folder or in a zip that is read in place, and the images among them, by name."""

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from subp_contract.errors import Notice, UserError

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
        return _images_among((name for name in self._zip().namelist() if not name.endswith("/")), self)

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
    shown = [name for name in names if not is_hidden(PurePosixPath(name))]
    images = sorted(name for name in shown if _suffix(name) in SUFFIXES)
    others = Counter(_suffix(name) or "no suffix" for name in shown if "/" in name and _suffix(name) not in SUFFIXES)
    if images and others:
        kinds = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(3))
        more = f" and {len(others) - 3} more kinds" if len(others) > 3 else ""
        warnings.warn(f"{files}: files are left out that are no images by their names: {kinds}{more}", Notice, 2)
    return images


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_hidden(path: PurePosixPath) -> bool:
    return any(map(_is_helper, path.parts))


def _is_helper(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HELPERS
