"""What a kernel is measured with, on this machine and on a board: how often, and on what arguments."""

import numpy as np
import tvm

# In a network a kernel finds its input in cache, and its weights where the layers since the last image have left them:
# all arguments but the first are flushed before each call.
TIMING = {"number": 1, "repeat": 15, "min_repeat_ms": 0, "enable_cpu_cache_flush": True}


def arguments(device, args_info, repeat: int) -> list:
    """Arguments for a kernel: standard normal numbers, and where it takes indices, distinct sorted channels of its
    first argument.

    TVM's own choice draws indices beyond the channels there are, and reads outside the image.
    """
    rng = np.random.default_rng(0)
    channels = int(args_info[0][2][-1])
    made = []
    for _, dtype, shape in args_info:
        shape = [int(extent) for extent in shape]
        if dtype == "int32":
            array = np.stack([np.sort(rng.permutation(channels)[: shape[1]]) for _ in range(shape[0])]).astype(dtype)
        else:
            array = rng.standard_normal(shape, dtype="float32").astype(dtype)
        made.append(tvm.runtime.tensor(array, device))
    return [made] * repeat
