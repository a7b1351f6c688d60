"""Image files as a data set: `<class>/<file>`, perhaps in folders of their parts."""

import warnings
from pathlib import PurePosixPath

from PIL import Image
from torch.utils.data import Dataset

from subp.data.decoding import UNREADABLE, open_image
from subp.data.parts import find_parts, require_classes
from subp.data.trees import SUFFIXES, Folder, Zip, is_hidden
from subp_contract.errors import Notice, UserError


class ImageFiles(Dataset):
    """(PIL image, class index) for each of `names` in `files`. A name is <prefix><class>/<file>; the prefix, such as
    "train/", may be empty. Classes are numbered in alphabetical order. An image that cannot be read is a UserError that
    names it.
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
            if folder not in self.classes and not is_hidden(PurePosixPath(folder)):
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
