"""Keeps TVM's chatter from the user's terminal."""

import os
import sys
import tempfile
from contextlib import contextmanager

# Said once a constant or once a lookup, and of no use to a user of this package.
CHATTER = (
    b"Warning: Scope Saving",
    b"Warning: Scope Loaded",
    b"Warning: Fast mode segfaults",
    b"BlockBuilder destroyed",
)


@contextmanager
def quiet():
    """Drops those lines from the process's standard error while the block runs; all others follow when it ends."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not any(words in line for words in CHATTER):
                    os.write(2, line)
