"""A function that makes outputs NaN where an input is none, or infinite.

Blocks of zeros are not multiplied, so what is not finite in a channel would not reach those who skip it. The function
runs behind all others and reads the input once more, as whole numbers: the largest of |x|'s bits tells, 2 instructions
a vector. Only where one is not finite it writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, prod

from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from tvm_sched.kernels.rewrites.arguments import array
from tvm_sched.passes.graph.relax_tools import shape_of

# Of a type: whole numbers of its width, all bits but the sign's, and the bits of infinity; those of NaN are larger.
BITS = {
    "float16": ("int16", 0x7FFF, 0x7C00),
    "bfloat16": ("int16", 0x7FFF, 0x7F80),
    "float32": ("int32", 0x7FFFFFFF, 0x7F800000),
    "float64": ("int64", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}


NAN, ANY = 1, 2  # what is looked for: NaN, or infinities, too


@dataclass(frozen=True)
class Guard:
    """An output that becomes NaN where an input is not finite."""

    input: int
    output: int
    kind: int  # NAN or ANY
    by_image: bool  # of that image alone, a row of the first axis


def guard_function(name: str, x: relax.Expr, outputs: Sequence[tuple[Guard, relax.Expr]]) -> PrimFunc:
    """The function of that name, of an input of a type in BITS and of the outputs that it may write."""
    whole, most, infinite = BITS[str(x.ty.dtype)]
    images = shape_of(x)[0] if all(guard.by_image for guard, _ in outputs) else 1
    extents = [prod(shape_of(each)) // images for each in (x, *(output for _, output in outputs))]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        source, *made = (
            array(f"b{number}", (images * extent,), str(each.ty.dtype))
            for number, (each, extent) in enumerate(zip([x, *(made for _, made in outputs)], extents, strict=True))
        )
        largest = T.alloc_buffer((1,), whole, scope="local")
        with T.serial(images) as image:
            T.buffer_store(largest, tirx.const(0, whole), [0])
            with T.serial(extents[0]) as place:
                bits = tirx.reinterpret(whole, source[image * extents[0] + place]) & tirx.const(most, whole)
                T.buffer_store(largest, tirx.max(largest[0], bits), [0])
            for (guard, _), y, extent in zip(outputs, made, extents[1:], strict=True):
                least = tirx.const(infinite + (guard.kind == NAN), whole)
                with T.If(largest[0] >= least), T.Then(), T.serial(extent) as place:
                    T.buffer_store(y, tirx.const(nan, y.ty.dtype), [image * extent + place])
    return builder.get()
