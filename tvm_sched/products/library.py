"""The products, and the batch norms between them, as functions to call: built once for a problem, kept in memory and on
disk. Loads nothing of TVM, whose runtime and Python package would take 10 MiB: a product's library stands alone.
"""

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from tvm_sched.products import workers
from tvm_sched.products.product import Product

# Of TVM's calling convention: each argument is a number that tells its kind, and a pointer or number.
_INTEGER, _FRACTION, _POINTER = 1, 3, 4
ARGUMENT = 16  # bytes

_loading = threading.Lock()


def call(product: Product, *arguments: Any) -> None:
    """arguments: tensors, each contiguous, and numbers, as the product's module says."""
    function(product)(*arguments)


def function(product: Product) -> Callable[..., None]:
    """It as a function of such arguments, built if need be."""
    with _loading:
        return _function(product)


@cache
def _function(product: Product) -> Callable[..., None]:
    path = product.path
    workers.build([product])
    if not path.exists():  # there is no linker, or nothing can be written
        return _built_here(product)
    library = ctypes.CDLL(str(path))
    library.subp_set_up(product.threads)
    library.subp_error.restype = ctypes.c_char_p
    compiled = library[f"__tvm_ffi_{product.kind}"]
    compiled.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p

    def run(*arguments: Any) -> None:
        nothing = ctypes.create_string_buffer(ARGUMENT)  # is returned
        if compiled(None, packed(arguments), len(arguments), nothing):
            raise RuntimeError(f"{product}: {library.subp_error().decode()}")

    return run


def packed(arguments: tuple) -> bytes:
    """As TVM's code takes them: tensors as pointers to their first numbers."""
    parts = []
    for each in arguments:
        if isinstance(each, int):
            parts.append(struct.pack("qq", _INTEGER, each))
        elif isinstance(each, float):
            parts.append(struct.pack("qd", _FRACTION, each))
        else:
            parts.append(struct.pack("qQ", _POINTER, each.data_ptr()))
    return b"".join(parts)


def _built_here(product: Product) -> Callable[..., None]:
    """By TVM's compiler in this process, and run by its threads."""
    from tvm_sched import runtime
    from tvm_sched.products import building

    compiled = building.executable(product)[product.kind]

    def run(*arguments: Any) -> None:
        runtime.set_threads(min(product.threads, runtime.most_threads()))
        compiled(*(ctypes.c_void_p(each.data_ptr()) if hasattr(each, "data_ptr") else each for each in arguments))

    return run
