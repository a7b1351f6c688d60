"""Products are built by processes of their own, side by side on all cores, and a process that calls products never
loads TVM's compiler, which takes 160 MiB.

A worker is sent a product at a time, builds it into its file and answers. It ends when nothing has come for a while, or
its caller has ended.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from subp_contract.child_process import serving
from tvm_sched.products.product import Product, folder

IDLE_SECONDS = 10.0
MOST_WORKERS = 8  # each takes some 300 MiB


class Worker:
    """A process that builds. Raises OSError or EOFError where it has ended, or ends meanwhile."""

    def __init__(self) -> None:
        self.process, self.connection = serving(__name__)

    def build(self, product: Product) -> None:
        """Into its file, where that can be."""
        self.connection.send(product)
        self.connection.recv()

    def end(self) -> None:
        """Lets it end."""
        self.connection.close()
        self.process.wait()


def serve(connection: Connection) -> None:
    """What a worker does."""
    from tvm_sched.products import building

    while connection.poll(IDLE_SECONDS):
        try:
            product = connection.recv()
        except EOFError:
            return
        connection.send(building.keep(product))


@dataclass
class _Pool:
    """Of this process: its workers that have nothing to do."""

    idle: list[Worker] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def built(self, product: Product) -> None:
        """By an idle worker, or a new one where there is none, or it has ended. What a new one fails at stays
        missing, so that its caller builds it itself, and sees why.
        """
        while True:
            new = not self.idle
            worker = Worker() if new else self.idle.pop()
            try:
                worker.build(product)
            except (OSError, EOFError):
                worker.end()
                if new:
                    return
            else:
                self.idle.append(worker)
                return


_pool = _Pool()


def build(products: Iterable[Product], tell: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Builds those that have no file yet; `tell` hears how many of how many are done. Those that cannot be built or
    kept stay without.
    """
    products = dict.fromkeys(products)
    if all(product.path.exists() for product in products):
        return
    with _pool.lock, _alone() as writable:
        missing = [product for product in products if writable and not product.path.exists()]
        if not missing:
            return
        tell(0, len(missing))
        with ThreadPoolExecutor(min(len(missing), MOST_WORKERS, _cores())) as threads:
            for done, _ in enumerate(threads.map(_pool.built, missing), 1):
                tell(done, len(missing))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone() -> Iterator[bool]:
    """While no other process builds; those of a data-parallel training want the same. Yields whether files can be
    kept at all.
    """
    with ExitStack() as stack:
        try:
            folder().mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder() / ".building", "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            file = None
        yield file is not None
