"""Transposes a small matrix in vector registers, as a tensor intrinsic: of TVM's own loops LLVM makes scalar loads and
inserts.

Columns are taken four at a time. Their numbers lie in 128-bit lanes of vectors r0 to r3 (NEON has one lane a vector,
AVX two), and two rounds of 'unpack' bring each column into a vector of its own. `ij` stands for a[i, j]:

    load                  r0 = 00 01 02 03 | 40 41 42 43        row 0 | row 4
                          r1 = 10 11 12 13 | 50 51 52 53        row 1 | row 5
                          r2 = 20 21 22 23 | 60 61 62 63        row 2 | row 6
                          r3 = 30 31 32 33 | 70 71 72 73        row 3 | row 7
    unpack numbers     low(r0, r1) = 00 10 01 11 | 40 50 41 51      high(r0, r1) = 02 12 03 13 | 42 52 43 53
                       low(r2, r3) = 20 30 21 31 | 60 70 61 71      high(r2, r3) = 22 32 23 33 | 62 72 63 73
    unpack pairs     low of the lows = 00 10 20 30 | 40 50 60 70  = column 0, stored as row 0 of the result
                    high of the lows = 01 11 21 31 | 41 51 61 71  = column 1; columns 2 and 3 of the highs likewise

No number ever leaves its lane, so each unpack is one instruction, the cheapest kind of shuffle: vunpcklps, vunpckhps,
vunpcklpd, vunpckhpd; zip1, zip2 on ARM.

A lane holds sixteen bytes, so of these sixteen columns are taken at a time. The two rounds leave in each lane, as
dwords, four rows of each of four columns, and a permutation of dwords puts a column's together.
"""

import re
from collections.abc import Callable

from tvm.ir import Expr
from tvm.s_tir import TensorIntrin
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc, Shuffle

from tvm_sched.kernels.rewrites.arguments import strided

COLS = 4  # numbers of a 128-bit lane: columns that are transposed together
ROWS = (4, 8)  # numbers of a vector. Sixteen were no faster on Zen 4, whose shuffles of 512 bits take two steps
NAME = re.compile(r"transpose_(\d+)x(\d+)_(?:(local)_)?(global|local)(?:_(int32|u?int8))?")
BYTES = ("uint8", "int8")
BYTE_COLS = 16  # of a lane


def transpose(rows: int, cols: int, scope: str, dtype: str = "float32", source: str = "global") -> str:
    """The name, for `Schedule.tensorize`, of the intrinsic out[j, i] = a[i, j]; it is made when first asked for.

    `a [rows, cols]` in the scope `source`, `out [cols, rows]` in `scope` ('global' or 'local'), both of `dtype`,
    float32, int32 or one of BYTES, and contiguous along their last axis; rows is one of ROWS or 16, cols a multiple of
    COLS, of bytes of BYTE_COLS.
    """
    scopes = scope if source == "global" else f"{source}_{scope}"
    name = f"transpose_{rows}x{cols}_{scopes}" + ("" if dtype == "float32" else f"_{dtype}")
    if TensorIntrin.get(name, allow_missing=True) is None:
        both = (body(rows, cols, scope, dtype, source) for body in (description, implementation))
        TensorIntrin.register(name, *both)
    return name


def make_needed(trace: list) -> None:
    """Makes the intrinsics that a recorded schedule, `Trace.as_json()`, tensorizes with: it knows them by name alone.
    To be called before TVM reads the trace.
    """
    instructions, _ = trace
    for kind, _, attributes, _ in instructions:
        if kind == "Tensorize" and (named := NAME.fullmatch(attributes[0])):
            rows, cols, source, scope, dtype = named.groups()
            transpose(int(rows), int(cols), scope, dtype or "float32", source or "global")


def description(rows: int, cols: int, scope: str, dtype: str, source: str) -> PrimFunc:
    """The loops that the intrinsic stands for, as `tensorize` looks for them."""

    def loops(a: Buffer, out: Buffer):
        with T.grid(cols, rows) as (j, i), T.sblock("transpose"):
            vj, vi = T.axis.remap("SS", [j, i])
            T.buffer_store(out, a[vi, vj], [vj, vi])

    return function("description", rows, cols, scope, dtype, source, loops)


def implementation(rows: int, cols: int, scope: str, dtype: str, source: str) -> PrimFunc:
    """What `tensorize` puts in their place: a vector store for each column."""

    in_lane = BYTE_COLS if dtype in BYTES else COLS

    def stores(a: Buffer, out: Buffer):
        for first in range(0, cols, in_lane):
            # Before any store, for all that LLVM knows `out` might be a part of `a`, to be read again after each.
            r = [T.bind(load(a, rows, i, first, in_lane)) for i in range(COLS)]
            for j in range(in_lane):
                made = column_of_bytes(r, rows, j) if dtype in BYTES else column(r, j)
                T.buffer_store(out, made, [first + j, T.ramp(T.int32(0), 1, rows)])

    return function("implementation", rows, cols, scope, dtype, source, stores)


def function(name: str, rows: int, cols: int, scope: str, dtype: str, source: str, body: Callable) -> PrimFunc:
    """A function of `a` and `out`, parts of larger buffers, whose root block holds the statements that `body` emits.

    By TVM's builder: the decorator `T.prim_func` would read and parse this file's source for each, a tenth of a second.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        a = strided("a", (rows, cols), dtype, source)
        out = strided("out", (cols, rows), dtype, scope)
        with T.sblock("root"):
            T.reads(a[0:rows, 0:cols])
            T.writes(out[0:cols, 0:rows])
            body(a, out)
    return builder.get()


def column(r: list[Expr], j: int, in_lane: int = COLS) -> Expr:
    """Column j of four in a vector, or of bytes columns 4 j to 4 j + 3, in each lane. What neighbouring columns have in
    common LLVM computes once.
    """
    pair, place = divmod(j, 2)
    upper, lower = (unpack(one, other, in_lane, half=pair, size=1) for one, other in (r[:2], r[2:]))
    return unpack(upper, lower, in_lane, half=place, size=2)


def column_of_bytes(r: list[Expr], rows: int, j: int) -> Expr:
    """Column j of sixteen in a vector."""
    four, place = divmod(j, COLS)
    starts = [lane + COLS * place for lane in range(0, rows * COLS, BYTE_COLS)]
    return Shuffle([column(r, four, BYTE_COLS)], [start + row for start in starts for row in range(COLS)])


def load(a: Buffer, rows: int, i: int, first: int, in_lane: int) -> Expr:
    """Columns from `first` on, as many as there are in a lane, of rows i, i + 4, ..., a lane each."""
    lanes = [a.vload([row, first], f"{a.dtype}x{in_lane}") for row in range(i, rows, COLS)]
    return Shuffle(lanes, list(range(len(lanes) * in_lane))) if len(lanes) > 1 else lanes[0]


def unpack(one: Expr, other: Expr, in_lane: int, half: int, size: int) -> Expr:
    """From the low or high half of each lane of two vectors, `size` numbers of the one and of the other in turn."""
    width = int(one.ty.dtype.lanes)
    starts = [lane + half * in_lane // 2 + i for lane in range(0, width, in_lane) for i in range(0, in_lane // 2, size)]
    return Shuffle([one, other], [vector + start + i for start in starts for vector in (0, width) for i in range(size)])
