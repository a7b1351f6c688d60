"""The products, and the batch norms between them, as functions to call: built once for a problem, kept in memory and on
disk. Loads of TVM its runtime alone.
"""

import ctypes
import threading
from collections.abc import Callable
from functools import cache

from tvm_sched import runtime, runtime_library
from tvm_sched.products import workers
from tvm_sched.products.product import Product

_loading = threading.Lock()


def call(product: Product, *arguments) -> None:
    """arguments: arrays, each flat and contiguous, and the number of kept blocks, as the product's module says."""
    runtime.set_threads(min(product.threads, runtime.most_threads()))
    function(product)(*arguments)


def function(product: Product) -> Callable:
    """TVM's, built if need be."""
    with _loading:
        return _function(product)


@cache
def _function(product: Product) -> Callable:
    path = product.path
    workers.build([product])
    if not path.exists():  # there is no linker, or nothing can be written
        from tvm_sched.products import building

        return building.executable(product)[product.kind]
    loaded = runtime_library.ffi().load_module(path)[product.kind]
    ctypes.CDLL(str(path)).subp_take_team(product.threads)  # else TVM's own threads compute it
    return loaded
