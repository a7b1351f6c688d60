"""TVM's runtime as what runs a compiled network needs it: its library, without the compiler's and without the Python
package around both, which take 1.5 s to import.
"""

import ctypes
import os
import sys
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_CPU, _POOLED = 1, 2  # DLPack's number of the device, the virtual machine's of its allocator


@cache
def ffi() -> Any:
    """The module `tvm_ffi`, to which the library has made its functions known. It is the library that `import tvm`
    loads too, before or after.
    """
    import tvm_ffi

    if "tvm" not in sys.modules:
        package = find_spec("tvm")
        paths = [Path(package.origin).parent / "lib"] if package and package.origin else []
        tvm_ffi.libinfo.load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=paths)
        # Sorting, among others, which the compiler's library brings along where it is loaded.
        tvm_ffi.libinfo.load_lib_ctypes("tvm", "tvm_runtime_extra", "RTLD_LOCAL", extra_lib_paths=paths)
    return tvm_ffi


def read_symbols() -> None:
    """Lets TVM read the names of functions that it shows behind an error. It does so at the first one, of which
    `import tvm` meets some that it expects, and for all libraries that are there by then: with PyTorch's it takes half
    a second more. So it only does anything before PyTorch is imported.
    """
    package = None if {"torch", "tvm_ffi"} & sys.modules.keys() else find_spec("tvm_ffi")
    if package and package.origin:
        for path in (Path(package.origin).parent / "lib").glob("libtvm_ffi.*"):
            backtrace = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL).TVMFFIBacktrace
            backtrace.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
            backtrace.restype = ctypes.c_void_p
            backtrace(None, 0, None, 0)


def virtual_machine(executable: Any) -> Any:
    """What runs an executable on the CPU: its functions by their names. executable: what TVM has built, or loaded."""
    module = executable.jit() if hasattr(executable, "jit") else executable
    machine = module["vm_load_executable"]()
    machine["vm_initialization"](_CPU, 0, _POOLED)
    return machine


@contextmanager
def without_pytorch():
    """Keeps `tvm_ffi` from importing PyTorch where nobody has while the block runs: 1 s of a short process. PyTorch can
    be imported afterwards, and its tensors are taken all the same. Not where other threads import meanwhile.
    """
    if "torch" in sys.modules:
        yield
        return
    told = os.environ.get(name := "TVM_FFI_DISABLE_TORCH_C_DLPACK")
    os.environ[name] = "1"
    sys.modules["torch"] = None  # type: ignore[assignment]  # for `import torch` an ImportError, which is expected
    try:
        yield
    finally:
        del sys.modules["torch"]
        if told is None:
            del os.environ[name]
        else:
            os.environ[name] = told
