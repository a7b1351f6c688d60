"""A transposition in vector registers, as a tensor intrinsic: TVM's own loops for one become scalar loads and inserts."""

from functools import cache

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T
from tvm.tirx import Shuffle

COLS = 4  # that one intrinsic transposes: 128 bits, inside which shuffles are cheapest


@cache
def transpose(rows: int, scope: str) -> str:
    """Name of the tensor intrinsic `out[j, i] = a[i, j]`, `a [rows, 4]` and `out [4, rows]`; rows is a multiple of 4, as many as a vector has lanes.

    Row i shares a vector with the rows i + 4, i + 8, ...: two shuffles a vector remain, and they stay inside 128 bits.
    """

    @T.prim_func(s_tir=True)
    def description(source: T.handle, result: T.handle) -> None:
        a = T.match_buffer(source, (rows, COLS), "float32", strides=[T.int32(), 1], offset_factor=1)
        out = T.match_buffer(result, (COLS, rows), "float32", strides=[T.int32(), 1], offset_factor=1, scope=scope)
        with T.sblock("root"):
            T.reads(a[0:rows, 0:COLS])
            T.writes(out[0:COLS, 0:rows])
            for j, i in T.grid(COLS, rows):
                with T.sblock("transpose"):
                    vj, vi = T.axis.remap("SS", [j, i])
                    out[vj, vi] = a[vi, vj]

    @T.prim_func(s_tir=True)
    def implementation(source: T.handle, result: T.handle) -> None:
        a = T.match_buffer(source, (rows, COLS), "float32", strides=[T.int32(), 1], offset_factor=1)
        out = T.match_buffer(result, (COLS, rows), "float32", strides=[T.int32(), 1], offset_factor=1, scope=scope)
        with T.sblock("root"):
            T.reads(a[0:rows, 0:COLS])
            T.writes(out[0:COLS, 0:rows])
            out[0, T.ramp(T.int32(0), 1, rows)] = column(a, rows, 0)
            out[1, T.ramp(T.int32(0), 1, rows)] = column(a, rows, 1)
            out[2, T.ramp(T.int32(0), 1, rows)] = column(a, rows, 2)
            out[3, T.ramp(T.int32(0), 1, rows)] = column(a, rows, 3)

    name = f"transpose_{rows}x{COLS}_{scope}"
    TensorIntrin.register(name, description, implementation)
    return name


def column(a, rows: int, j: int):
    """Column j: of pairs of rows the halves that hold it, of those the column. LLVM computes common parts once."""
    low, high = (interleave(gathered(a, rows, i), gathered(a, rows, i + 1), rows, j // 2) for i in (0, 2))
    pairs = [4 * piece + 2 * (j % 2) + half for piece in range(rows // 4) for half in (0, 1)]
    picked = [index for piece in range(rows // 4) for index in pairs[2 * piece:2 * piece + 2] + [rows + i for i in pairs[2 * piece:2 * piece + 2]]]
    return Shuffle([low, high], picked)


def gathered(a, rows: int, i: int):
    """Rows i, i + 4, i + 8, ... in one vector."""
    pieces = [a.vload([i + 4 * piece, 0], "float32x4") for piece in range(rows // 4)]
    return Shuffle(pieces, list(range(rows))) if len(pieces) > 1 else pieces[0]


def interleave(low, high, rows: int, half: int):
    """Of each 128 bits, the lower or upper half of both, interleaved."""
    return Shuffle([low, high], [side * rows + 4 * piece + 2 * half + i for piece in range(rows // 4) for i in (0, 1) for side in (0, 1)])
