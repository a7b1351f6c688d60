"""Files written whole or not at all, and read if they are files.

A symbolic link is followed, and stays; what is no regular file (a device, a pipe) is written to and never replaced.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from subp_contract.errors import UserError

MOST = 2**34  # bytes of a file that is read whole
UNPACKED, GROWTH = 2**28, 100  # what is packed may grow to so many bytes, and beyond that to so many times its own


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, and moves it there once it is on the disk. Raises UserError if that fails.

    The temporary file has the same name every time, so that what a killed run left is written over; another process
    that writes the same file meanwhile waits.
    """
    place = destination(path)
    temporary = place.with_name(f".{place.name}.tmp")
    try:
        if not replaceable(place):
            place.write_bytes(content)
            return
        with _locked(temporary) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, place)
            except BaseException:
                with contextlib.suppress(OSError):  # what was raised is the one to tell
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error


@contextmanager
def _locked(temporary: Path) -> Iterator[IO[bytes]]:
    """The temporary file, empty, which no other process writes; its lock goes when it is closed, or its holder
    killed.
    """
    while True:
        with open(temporary, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                ours = os.path.samestat(os.fstat(file.fileno()), os.stat(temporary))
            except FileNotFoundError:  # its writer has moved or removed it since
                ours = False
            if ours:
                file.truncate(0)
                yield file
                return


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


def require_file(path: str | Path, most: int = MOST) -> Path:
    """The path. Raises UserError where it is no regular file, which might wait or never end, or has more bytes."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder, and must be a file")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no regular file: copy what it gives into one")
    if found.st_size > most:
        raise UserError(f"{path} has {found.st_size:,} bytes, more than the {most:,} that such a file may have")
    return Path(path)


def require_unpacked(name: object, packed: int, unpacked: int) -> None:
    """Raises UserError where what is packed in so many bytes says that it grows beyond what numbers or images do."""
    if unpacked > max(UNPACKED, GROWTH * packed):
        raise UserError(
            f"{name} has {packed:,} bytes and says that it unpacks to {unpacked:,}: unpack it yourself if you trust it"
        )


def read_file(path: str | Path, most: int = MOST) -> bytes:
    """The bytes of a regular file. Raises UserError as `require_file`, or where it cannot be read."""
    try:
        return require_file(path, most).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def user_cache() -> Path:
    """The user's folder for what can be made anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subp"
