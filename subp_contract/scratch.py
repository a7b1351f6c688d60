"""Temporary folders that a killed process does not leave for ever.

Each is locked while it is used. The lock goes with its holder, whatever ends that; so the next process that writes the
same output, or uses the system's folder for temporary files, removes those that nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from subp_contract.errors import UserError
from subp_contract.files import destination, scratch

SUFFIX = ".tmp"


@contextmanager
def scratch_folder(path: Path | None = None) -> Iterator[Path]:
    """A folder for what is to be `put` at `path`, on the same disk; without a path one in TMPDIR. It is gone when the
    block ends. Raises UserError where it cannot be made, and where the disk is full when the block fails.
    """
    if path is None:
        parent, prefix = Path(tempfile.gettempdir()), f"subp-{os.getuid()}-"
        _sweep_once(parent, prefix)
    else:
        parent, prefix = scratch(path), f".{destination(path).name}."
        sweep(parent, prefix)
    made, lock = _made(parent, prefix)
    try:
        yield made
    except Exception as error:  # of any kind: compilers and TVM have words of their own for it
        if is_full(made):
            raise UserError(f"no room is left in {parent}: make some, or name another folder (TMPDIR)") from error
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path, prefix: str) -> None:
    """Removes the folders of that prefix that nobody holds."""
    for left in parent.glob(f"{_literal(prefix)}*{SUFFIX}"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, no folder, or gone
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


_sweep_once = cache(sweep)


def is_full(folder: Path) -> bool:
    """Whether hardly a page can be written there."""
    try:
        probe = folder / "probe"
        probe.write_bytes(bytes(2**16))
        probe.unlink()
    except OSError:
        return folder.is_dir()
    return False


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    """(a new folder, its lock)"""
    while True:
        try:
            made = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=SUFFIX))
        except OSError as error:
            raise UserError(f"no temporary folder can be made in {parent}: {error.strerror}") from error
        try:
            lock = os.open(made, os.O_RDONLY)
        except FileNotFoundError:  # swept before it could be locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            return made, lock
        os.close(lock)


def _literal(text: str) -> str:
    """The text for `glob`, where brackets and stars mean others."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in text)
