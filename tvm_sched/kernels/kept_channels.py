"""The channels that block rows keep, as the file holds them: a bit a channel, where an index takes 32 a kept one, twice
the bits of four weights of 8.

They are counted out when the network is loaded, as what depends on constants alone is (`passes/graph/hoist_constants`).
"""

import numpy as np
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from tvm_sched.kernels.rewrites.arguments import array

NAME = "count_channels"
BITS = 8


def counted(builder: relax.BlockBuilder, indices: np.ndarray, channels: int) -> relax.Expr:
    """`indices [G, K]` int32, of each row sorted and distinct but for its last, which may come several times, as an
    expression of bits, of which there is one for each of the `channels`.
    """
    kept = int((np.diff(indices[0]) > 0).sum()) + 1
    name = builder.add_func(function(len(indices), channels, kept, indices.shape[1]), NAME)
    ty = relax.TensorType(indices.shape, "int32")
    return builder.emit(relax.call_tir(name, [relax.const(bits_of(indices, channels))], ty))


def bits_of(indices: np.ndarray, channels: int) -> np.ndarray:
    """`[G, channels / 8]` uint8, the lowest bit first: those of each row's channels are set."""
    marked = np.zeros((len(indices), channels), bool)
    np.put_along_axis(marked, indices.astype("int64"), True, axis=1)
    return np.packbits(marked, axis=1, bitorder="little")


def function(rows: int, channels: int, kept: int, length: int) -> PrimFunc:
    """indices[row] = the channels whose bits are set, `kept` of them, then the last again, up to `length`."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(NAME)
        bits = array("bits", (rows, -(-channels // BITS)), "uint8")
        indices = array("indices", (rows, length), "int32")
        with T.sblock("root"):
            T.reads(bits[0:rows, 0 : -(-channels // BITS)])
            T.writes(indices[0:rows, 0:length])
            count = T.sblock_alloc_buffer((1,), "int32", scope="local")
            with T.serial(rows) as row:
                T.buffer_store(count, tirx.const(0, "int32"), [0])
                with T.serial(channels) as channel:
                    shifted = bits[row, channel // BITS].astype("int32") >> (channel % BITS)
                    with T.If((shifted & 1) == 1), T.Then():
                        T.buffer_store(indices, channel, [row, count[0]])
                        T.buffer_store(count, count[0] + 1, [0])
                with T.serial(length - kept) as more:
                    T.buffer_store(indices, indices[row, kept - 1], [row, kept + more])
    return builder.get().without_attr("global_symbol")  # it gets a name in its module
