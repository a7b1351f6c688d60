"""Every worker computes on one thread: the workers share the cores, and timings and sums then do not depend on how many
there are.
"""

import gc
import os
import sys

# The workers and the hundred processes that tests start share what one of them has compiled of the sources.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS"):  # before anything imports torch or tvm
    os.environ[variable] = "1"

gc.set_threshold(*gc.get_threshold()[:2], 100)  # full collections: of a million objects, a fifth of the imports' time


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: what waits, for a process, a time limit or a board, leaves its core to others."""
    return len(os.sched_getaffinity(0)) + 1
