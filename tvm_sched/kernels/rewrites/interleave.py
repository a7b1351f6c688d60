"""Several pixels side by side in one vector, as tensor intrinsics, for blocks narrower than a vector.

`together` pixels are interleaved: lane q of a vector is number q // together of pixel q % together. A block's weights
and those pixels then fill a vector, or two, where weights alone would leave most of it unused:

    interleave        out[q] = a[q % s, q // s]                    s rows become one, s = together
    multiply_add      out[q] += weight[q // s] * pixel[q % s]      each weight s times, the pixels over and over
    apart             out[t, j] = a[j * s + t]                     one row becomes s again

The pixels of a multiply-add lie side by side, and are spread over a register by the load itself (vbroadcastsd,
vbroadcastf128), as a single scalar would be.
"""

import re
from collections.abc import Callable

from tvm.ir import Expr
from tvm.s_tir import TensorIntrin
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc, Shuffle

from tvm_sched.kernels.rewrites.arguments import strided

TOGETHER = (2, 4)  # pixels that a load spreads: 64 and 128 bits
NAME = re.compile(r"(interleave|multiply_add|apart)_([x\d]+)")


def intrinsic(kind: str, *sizes: int) -> str:
    """The name, for `Schedule.tensorize`, of one of the module's intrinsics; it is made when first asked for. `sizes`:
    numbers of a pixel, or weights of a block; pixels together. Weights are in memory, all else in registers.
    """
    name = f"{kind}_{'x'.join(map(str, sizes))}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        TensorIntrin.register(name, KINDS[kind](*sizes, loops=True), KINDS[kind](*sizes, loops=False))
    return name


def make_needed(trace: list) -> None:
    """As `transpose.make_needed`."""
    instructions, _ = trace
    for kind, _, attributes, _ in instructions:
        if kind == "Tensorize" and (named := NAME.fullmatch(attributes[0])):
            intrinsic(named[1], *map(int, named[2].split("x")))


def interleave(width: int, together: int, *, loops: bool) -> PrimFunc:
    """out[q] = a[q % s, q // s], `a [s, width]`."""

    def body(a: Buffer, out: Buffer) -> None:
        if loops:
            with T.serial(width * together) as q, T.sblock("interleave"):
                vq = T.axis.spatial(width * together, q)
                T.buffer_store(out, a[vq % together, vq // together], [vq])
            return
        rows = [a.vload([row, 0], f"float32x{width}") for row in range(together)]
        for part, vector in enumerate(zipped(rows, width)):
            T.buffer_store(out, vector, [T.ramp(T.int32(part * width), 1, width)])

    return function([("a", (together, width), "local"), ("out", (width * together,), "local")], body)


def apart(width: int, together: int, *, loops: bool) -> PrimFunc:
    """out[t, j] = a[j * s + t], `out [s, width]`."""

    def body(a: Buffer, out: Buffer) -> None:
        if loops:
            with T.grid(together, width) as (t, j), T.sblock("apart"):
                vt, vj = T.axis.remap("SS", [t, j])
                T.buffer_store(out, a[vj * together + vt], [vt, vj])
            return
        parts = [a.vload([first], f"float32x{width}") for first in range(0, width * together, width)]
        for row, vector in enumerate(unzipped(parts, width)):
            T.buffer_store(out, vector, [row, T.ramp(T.int32(0), 1, width)])

    return function([("a", (width * together,), "local"), ("out", (together, width), "local")], body)


def zipped(rows: list[Expr], width: int) -> list[Expr]:
    """Vectors of the rows' first numbers, then their second, and so on: pairs of rows in turn, a shuffle a vector."""
    if len(rows) == 1:
        return rows
    low, high = ([half + i + row for i in range(width // 2) for row in (0, width)] for half in (0, width // 2))
    pairs = zip(zipped(rows[::2], width), zipped(rows[1::2], width), strict=True)
    return [Shuffle(list(pair), lanes) for pair in pairs for lanes in (low, high)]


def unzipped(parts: list[Expr], width: int) -> list[Expr]:
    """The rows again."""
    if len(parts) == 1:
        return parts
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    even, odd = ([Shuffle(list(pair), list(range(first, 2 * width, 2))) for pair in pairs] for first in (0, 1))
    return [row for rows in zip(unzipped(even, width), unzipped(odd, width), strict=True) for row in rows]


def multiply_add(width: int, together: int, *, loops: bool) -> PrimFunc:
    """out[q] += weight[q // s] * pixel[q % s]."""
    lanes = width * together

    def body(weight: Buffer, pixel: Buffer, out: Buffer) -> None:
        if loops:
            with T.serial(lanes) as q, T.sblock("multiply_add"):
                vq = T.axis.spatial(lanes, q)
                T.buffer_store(out, out[vq] + weight[vq // together] * pixel[vq % together], [vq])
            return
        repeated = spread(weight.vload([0], f"float32x{width}"), [q // together for q in range(lanes)])
        pixels = spread(pixel.vload([0], f"float32x{together}"), [q % together for q in range(lanes)])
        T.buffer_store(out, out.vload([0], f"float32x{lanes}") + repeated * pixels, [T.ramp(T.int32(0), 1, lanes)])

    arguments = [("weight", (width,), "global"), ("pixel", (together,), "local"), ("out", (lanes,), "local")]
    return function(arguments, body, updated=True)


def spread(vector: Expr, lanes: list[int]) -> Expr:
    """Those numbers of a vector, any number of times. A shuffle of TVM's gives no more numbers than it takes."""
    return Shuffle([vector] * (len(lanes) // vector.ty.dtype.lanes), lanes)


def function(arguments: list[tuple], body: Callable, updated: bool = False) -> PrimFunc:
    """A function of parts (name, shape, scope) of larger buffers, the last of them its result, whose root block holds
    the statements that `body` emits. `updated`: the result is read, too.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("intrinsic")
        buffers = [strided(name, shape, "float32", scope) for name, shape, scope in arguments]
        regions = [buffer[tuple(slice(0, extent) for extent in buffer.ty.shape)] for buffer in buffers]
        with T.sblock("root"):
            T.reads(*([regions[-1]] if updated else []), *regions[:-1])
            T.writes(regions[-1])
            body(*buffers)
    return builder.get()


KINDS: dict[str, Callable] = {make.__name__: make for make in (interleave, multiply_add, apart)}
