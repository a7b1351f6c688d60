"""Files written whole or not at all.

A symbolic link is followed, and stays; what is no regular file (a device, a pipe) is written to and never replaced.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from subp_contract.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, and moves it there once it is on the disk. Raises UserError if that fails.

    The temporary file has the same name every time, so that what a killed run left is written over.
    """
    place = destination(path)
    temporary = place.with_name(f".{place.name}.tmp")
    try:
        if not replaceable(place):
            place.write_bytes(content)
            return
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)


def destination(path: Path) -> Path:
    """Where what is written to `path` lies: what a symbolic link points to."""
    return path.resolve() if path.is_symlink() else path


def scratch(path: Path) -> Path:
    """The folder for temporary files of what is to be `put` at `path`: on the same disk, where they are to be moved."""
    place = destination(path)
    return place.parent if replaceable(place) else Path(tempfile.gettempdir())


def replaceable(place: Path) -> bool:
    """Whether a file may be put there in the place of what there is: nothing, or a regular file."""
    return place.is_file() or not place.exists()


def put(written: Path, path: Path) -> None:
    """Moves a whole file from a temporary name in `scratch(path)` to `path`."""
    place = destination(path)
    if replaceable(place):
        os.replace(written, place)
        return
    with open(written, "rb") as source, open(place, "wb") as target:
        shutil.copyfileobj(source, target)
    written.unlink()
