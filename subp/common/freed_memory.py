"""Memory that a step frees stays with the process, for the next step to take.

PyTorch asks the C library for each tensor. glibc takes what is larger than 32 MiB from the system and gives it back at
once, so that every step has the system clear the same pages again, 4 KiB at a time: a quarter of MobileNetV1's step on
16 images of 224x224 (docs/sparse_training.md).
"""

import ctypes
import os
import sys

# Of glibc's malloc.h: options of mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """From here on, on Linux with glibc, unless the environment sets its allocator up (MALLOC_..., LD_PRELOAD). Returns
    whether it is so now.
    """
    set_up = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if sys.platform != "linux" or set_up:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
