"""Threads of compiled networks.

TVM's pool is one a process. It reads its largest size from the environment when it first runs, counts half of the cores
by default, and ties the caller to one core: both are set right here, before the pool exists, unless the user has set
them.
"""

import os

from subp_contract.errors import UserError

os.environ.setdefault(
    "TVM_NUM_THREADS", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
)
os.environ.setdefault("TVM_BIND_THREADS", "0")


def most_threads() -> int:
    """Threads that the pool may use in this process."""
    return int(os.environ["TVM_NUM_THREADS"])


def set_threads(count: int) -> None:
    """Runs compiled networks on `count` threads from now on, in the whole process. Raises UserError beyond
    `most_threads`.
    """
    import tvm

    if not 1 <= count <= most_threads():
        raise UserError(f"{count} threads asked for; this process may use 1 to {most_threads()}")
    tvm.get_global_func("runtime.config_threadpool")(0, count)
