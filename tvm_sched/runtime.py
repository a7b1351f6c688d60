"""Threads of compiled networks.

TVM has a pool of threads for each thread that calls it, with a size of its own. It reads the largest size from the
environment when it is made, counts half of the cores by default, ties the caller to one core, and has a worker without
work yield its core 300,000 times before it sleeps. All three are set right here, before there is a pool, unless the
user has set them.

A forked process has the thread that forked and no other. The pool that this thread had waits for its workers for ever,
so what the thread calls there runs on it alone; threads that are made there have pools of their own. The pool is not
destroyed when such a process ends (`lost_pool.py`). No process is forked in the midst of a call: whoever holds a
`call_lock` is waited for.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from weakref import WeakSet

from subp_contract.arguments import whole_number
from subp_contract.errors import UserError
from tvm_sched import lost_pool, runtime_library

# Workers must stay awake between two kernels of a network, as waking them costs some 10 us: while the virtual machine
# steps on, a small function runs on one thread, or the input is copied, less than 0.1 ms in all. 1000 yields bridge
# that, a yield taking 0.1 to 0.5 us where nobody else wants the core. After the last kernel they are waste: 300,000
# take 0.25 s of CPU (measured), 1000 take 0.002 s. Where somebody does want the core a yield may last a time slice, and
# no process ends before its workers have yielded so often.
SPIN_COUNT = 1000
PR_SET_PDEATHSIG = 1  # Linux's <sys/prctl.h>

os.environ.setdefault(
    "TVM_NUM_THREADS", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
)
os.environ.setdefault("TVM_BIND_THREADS", "0")
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(SPIN_COUNT))

_orphan: int | None = None  # the thread whose pool has lost its workers by a fork
_locks: WeakSet = WeakSet()  # that are held while something computes
_registry = threading.RLock()  # of `_locks`; held during a fork, so that nobody else forks
_held: list = []  # locks, during a fork


def call_lock() -> threading.RLock:
    """A lock to hold while compiled code runs: a fork waits for it."""
    lock = threading.RLock()
    with _registry:
        _locks.add(lock)
    return lock


def _before_fork() -> None:
    if _pool.cache_info().currsize:
        lost_pool.destructors()  # found while all threads are there
    _registry.acquire()
    _held[:] = _locks
    for lock in _held:
        lock.acquire()


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _registry.release()


def _in_child() -> None:
    global _orphan
    if _pool.cache_info().currsize:  # else there was no pool
        _orphan = threading.get_ident()
        if found := lost_pool.destructors():
            found.forget()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def most_threads() -> int:
    """Threads that a pool may use in this process. Raises UserError where the environment does not tell it."""
    told = os.environ["TVM_NUM_THREADS"]
    if not told.isdecimal() or int(told) < 1:
        raise UserError(f"TVM_NUM_THREADS is {told!r} in the environment: make it a number from 1, or take it away")
    return int(told)


def require_threads(count: int) -> None:
    """Raises UserError unless a pool of this process may use `count` threads."""
    count = whole_number("threads", count)
    if not 1 <= count <= most_threads():
        raise UserError(f"{count} threads asked for; this process may use 1 to {most_threads()}")


def set_threads(count: int) -> None:
    """Runs what this Python thread calls of TVM on `count` threads from now on, on one where it has lost its pool by a
    fork. Raises UserError beyond `most_threads`.

    TVM itself is asked what it runs on, so that nothing goes wrong where others set it: 0.1 us where it is `count`.
    """
    threads, configure = _pool()
    if _orphan is not None and _orphan == threading.get_ident():
        count = min(count, 1)
    if threads() != count:
        require_threads(count)
        configure(0, count)


def make_pool() -> None:
    """Makes the calling thread's pool where there is none: all workers that it will ever have, on the CPUs that the
    thread may use now.
    """
    _pool()[0]()


@cache
def _pool() -> tuple[Callable[[], int], Callable[[int, int], None]]:
    """TVM's functions that tell and set the size of the calling thread's pool."""
    find = runtime_library.ffi().get_global_func
    return find("runtime.NumThreads"), find("runtime.config_threadpool")


def begin_measuring(threads: int) -> None:
    """What a process does that is started to measure: runs on `threads` threads, and ends with the one that started it,
    whatever ends that.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_threads(threads)
