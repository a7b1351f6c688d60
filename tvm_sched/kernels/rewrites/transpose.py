"""A transposition in vector registers, as tensor intrinsics: TVM's own loops for one become scalar loads and inserts."""

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T
from tvm.tirx import Shuffle

COLS = 4  # columns are taken four at a time: 128 bits, inside which shuffles are cheapest
ROWS = (4, 8)  # in a vector. Sixteen were no faster on Zen 4, whose shuffles of 512 bits take two steps


def transpose(rows: int, cols: int, scope: str) -> str:
    """Name of the intrinsic `out[j, i] = a[i, j]`, `a [rows, cols]`, `out [cols, rows]` in `scope`, both contiguous
    along their last axis.

    rows is one of ROWS, cols one of 4, 8, 16. Rows i and i + 4 share a vector, so that its two shuffles stay inside 128
    bits.
    """
    return f"transpose_{rows}x{cols}_{scope}"


def register(rows: int, cols: int, scope: str):
    """Makes the intrinsic known to TVM. All are, when this file is imported: a recorded schedule knows them by name."""

    @T.prim_func(s_tir=True)
    def description(source: T.handle, result: T.handle) -> None:
        a = T.match_buffer(source, (rows, cols), "float32", strides=[T.int32(), 1], offset_factor=1)
        out = T.match_buffer(result, (cols, rows), "float32", strides=[T.int32(), 1], offset_factor=1, scope=scope)
        with T.sblock("root"):
            T.reads(a[0:rows, 0:cols])
            T.writes(out[0:cols, 0:rows])
            for j, i in T.grid(cols, rows):
                with T.sblock("transpose"):
                    vj, vi = T.axis.remap("SS", [j, i])
                    out[vj, vi] = a[vi, vj]

    @T.prim_func(s_tir=True)
    def implementation(source: T.handle, result: T.handle) -> None:
        a = T.match_buffer(source, (rows, cols), "float32", strides=[T.int32(), 1], offset_factor=1)
        out = T.match_buffer(result, (cols, rows), "float32", strides=[T.int32(), 1], offset_factor=1, scope=scope)
        with T.sblock("root"):
            T.reads(a[0:rows, 0:cols])
            T.writes(out[0:cols, 0:rows])
            store_columns(a, out, rows, cols)

    TensorIntrin.register(transpose(rows, cols, scope), description, implementation, override=True)


def store_columns(a, out, rows: int, cols: int):
    """The statements of an implementation. What columns have in common LLVM computes once."""
    for j in range(cols):
        T.buffer_store(out, column(a, rows, j), [j, T.ramp(T.int32(0), 1, rows)])


def column(a, rows: int, j: int):
    """Column j: of rows two by two the halves that hold it, of those the column."""
    first = j // COLS * COLS
    low, high = (
        interleave(spaced_rows(a, rows, i, first), spaced_rows(a, rows, i + 1, first), rows, j % COLS // 2)
        for i in (0, 2)
    )
    starts = [start + piece + j % 2 * 2 for piece in range(0, rows, COLS) for start in (0, rows)]
    return Shuffle([low, high], [start + i for start in starts for i in (0, 1)])


def spaced_rows(a, rows: int, i: int, j: int):
    """Columns j to j + 3 of rows i, i + 4, ... in one vector."""
    pieces = [a.vload([i + piece, j], "float32x4") for piece in range(0, rows, COLS)]
    return Shuffle(pieces, list(range(rows))) if len(pieces) > 1 else pieces[0]


def interleave(one, other, rows: int, half: int):
    """The lower or upper half of each 128 bits of both, number by number."""
    return Shuffle(
        [one, other],
        [side * rows + piece + 2 * half + i for piece in range(0, rows, COLS) for i in (0, 1) for side in (0, 1)],
    )


for rows in ROWS:
    for cols in (4, 8, 16):
        for scope in ("global", "local"):
            register(rows, cols, scope)
