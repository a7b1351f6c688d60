"""Files of one JSON value a line that several processes read and append to.

A reader holds the folder's lock shared, a writer exclusively. A line that lacks its end was cut off by a kill in the
middle of a write: the next writer, who holds the lock and so knows that nobody is still writing it, drops it.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from subp_contract.errors import UserError
from subp_contract.files import require_file

LOCK = ".lock"  # in the folder of the files


@contextmanager
def locked(folder: Path, write: bool) -> Iterator[None]:
    """Holds the folder's lock, waiting for it. A folder where no writer has been, or that cannot be written, needs none
    to be read.
    """
    path = Path(folder) / LOCK
    try:
        file = open(path, "a" if write else "r")  # noqa: SIM115 (closed below; here only opening may fail)
    except OSError:
        if write:
            raise
        yield
        return
    with file:  # the lock goes when it is closed, be it by the system after a kill
        fcntl.flock(file, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
        yield


class JsonLines:
    """One such file, read from where the last reading ended. Lock its folder around each call."""

    def __init__(self, path: Path, is_whole: Callable[[object], bool]):
        """is_whole: whether a line is what the file should hold."""
        self.path, self.is_whole = path, is_whole
        self.lines = self.bytes = 0  # that have been read

    def read(self, repair: bool) -> list:
        """The lines that are new; none where the file is missing. Raises UserError where one is damaged.

        With `repair` a last line that was cut off is dropped from the file.
        """
        if not self.path.exists():
            return []
        require_file(self.path)
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self.bytes:
                raise UserError(f"{self.path} lost lines while it was in use; start again")
            file.seek(self.bytes)
            new = file.read().splitlines(keepends=True)
        read = [parsed(line) for line in new]
        bad = next(
            (i for i, line in enumerate(new) if not line.endswith(b"\n") or not self.is_whole(read[i])), len(new)
        )
        if bad + 1 < len(new) or (bad < len(new) and new[bad].endswith(b"\n")):
            raise UserError(
                f"line {self.lines + bad + 1} of {self.path} is damaged; move that folder of records away and tune "
                "again"
            )
        if bad < len(new) and not repair:
            raise UserError(
                f"the last line of {self.path} is cut off; 'subp tune' with these records drops it and goes on"
            )
        self.lines += bad
        self.bytes += sum(map(len, new[:bad]))
        if bad < len(new):
            os.truncate(self.path, self.bytes)
        return read[:bad]

    def append(self, value: Any) -> Any:
        """Writes one line after those that have been read, which must be all; returns it as it will be read. It is on
        disk when this returns. Raises UserError where it cannot be written; the file is as it was then.
        """
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        with open(self.path, "ab", buffering=0) as file:
            try:
                left = memoryview(line)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(self.bytes)
                raise UserError(
                    f"could not write {self.path}: {error.strerror}; what was there before is unchanged"
                ) from error
        self.lines += 1
        self.bytes += len(line)
        return json.loads(line)


def parsed(line: bytes) -> Any:
    """The line's JSON, None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
