"""Kept channels as bits: counted out they are the indices that the kernels read."""

import numpy as np
import pytest
import tvm
from tvm import IRModule

from tvm_sched.kernels.kept_channels import bits_of, function


@pytest.mark.parametrize(("rows", "channels", "kept", "length"), [(1, 1, 1, 4), (3, 21, 5, 8), (4, 64, 16, 16)])
def test_bits_become_sorted_channels_and_the_last_again(rows, channels, kept, length):
    rng = np.random.default_rng(channels)
    indices = np.stack([np.sort(rng.permutation(channels)[:kept]) for _ in range(rows)]).astype("int32")
    indices = np.pad(indices, [(0, 0), (0, length - kept)], mode="edge")
    bits = bits_of(indices, channels)
    assert bits.nbytes == rows * -(-channels // 8)
    found = tvm.runtime.tensor(np.zeros((rows, length), "int32"))
    counting = function(rows, channels, kept, length).with_attr("global_symbol", "main")
    tvm.compile(IRModule({"main": counting}), "llvm")["main"](tvm.runtime.tensor(bits), found)
    np.testing.assert_array_equal(found.numpy(), indices)
