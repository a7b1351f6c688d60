"""Files written whole or not at all, and read if they are files."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from subp_contract.errors import UserError

MOST = 2**34  # bytes of a file that is read whole


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, and moves it there once it is on the disk. A link is followed; what is no regular
    file, such as /dev/null or a pipe, is written to. Raises UserError if that fails.
    """
    with replaced(path) as file:
        file.write(content)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write within the block, which takes the place of `path` after it if nothing was raised; see
    `write_atomically`.

    The temporary file has the same name every time, so that what a killed run left is written over; another process
    that writes the same file meanwhile waits.
    """
    try:
        target = Path(os.path.realpath(path))
        if is_special(target):
            with open(target, "wb") as file:
                yield file
            return
        temporary = target.with_name(f".{target.name}.tmp")
        with _locked(temporary) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if target.exists():
                    os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):  # what was raised is the one to tell
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error


def is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder: a device, a pipe, a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


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


def read_file(path: str | Path, most: int = MOST) -> bytes:
    """The bytes of a regular file. Raises UserError as `require_file`, or where it cannot be read."""
    try:
        return require_file(path, most).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
