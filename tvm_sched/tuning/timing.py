"""How a kernel is timed, on this machine and on a board: how often, on what arguments, with which caches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi

from tvm_sched.kernels.base import dtype_named

TIMES = {"number": 1, "repeat": 15, "min_repeat_ms": 0}
# In a network a kernel finds its input in cache, and so the memory that its result goes to, which another result has
# left; its weights lie where the layers since the last image have put them. So all arguments but the first and the last
# are flushed before each call. TVM's own function flushes the last too, as a board does that has no other.
FLUSH_WEIGHTS, FLUSH = "subp.flush_weights", "cache_flush_cpu_non_first_arg"


@tvm_ffi.register_global_func(FLUSH_WEIGHTS)
def flush_weights(*arguments) -> None:
    """Throws a kernel's weights out of the caches."""
    tvm.get_global_func(FLUSH)(*arguments[:-1])


def seconds_of(module, device, arrays: Sequence[np.ndarray], flush: str = FLUSH_WEIGHTS) -> list[float]:
    """Seconds of each timed call of a loaded library's kernel; `flush`: a function where it runs, that is called with
    the arguments before.
    """
    arguments = [tvm.runtime.tensor(array, device) for array in arrays]
    evaluate = module.time_evaluator(module.entry_name, device, f_preproc=flush, **TIMES)
    return [float(seconds) for seconds in evaluate(*arguments).results]


def save_arguments(path: str | Path, arrays: Sequence[np.ndarray]) -> None:
    """Writes the arguments of a kernel; those of types that NumPy's files do not have, such as bfloat16, as bits under
    the type's name.
    """
    bits = [array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array for array in arrays]
    named = {f"{number}:{array.dtype.name}": raw for number, (array, raw) in enumerate(zip(arrays, bits, strict=True))}
    np.savez(path, **named)


def load_arguments(path: str | Path) -> list[np.ndarray]:
    """What `save_arguments` wrote, in its order."""
    with np.load(path) as file:
        return [file[name].view(dtype_named(name.partition(":")[2])) for name in file.files]
