"""Files written whole or not at all."""

import contextlib
import os
from pathlib import Path

from subp_contract.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, and moves it there once it is on the disk. Raises UserError if that fails.

    The temporary file has the same name every time, so that what a killed run left is written over.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)
