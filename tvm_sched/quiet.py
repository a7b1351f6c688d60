"""Keeps TVM's chatter, and PyTorch's, from the user's terminal."""

import logging
import os
import sys
import tempfile
import warnings
from contextlib import contextmanager
from typing import IO

# Said once a constant or once a lookup, and of no use to a user of this package.
CHATTER = (
    b"Warning: Scope Saving",
    b"Warning: Scope Loaded",
    b"Warning: Fast mode segfaults",
    b"BlockBuilder destroyed",
    b"There are dead codes in the current IRModule",  # of layers that are all zeros
)


def _held() -> IO[bytes]:
    """A file in memory where the system has such: on a full disk the last words would be lost."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


@contextmanager
def unlogged():
    """Keeps PyTorch from logging tracebacks of errors that it raises besides, while the block runs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def quiet():
    """Drops those lines from the process's standard error while the block runs; all others follow when it ends. Nor
    does torch.export say of its own code that it is deprecated.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with _held() as held:
        os.dup2(held.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
                yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not any(words in line for words in CHATTER):
                    os.write(2, line)
