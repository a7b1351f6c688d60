"""A function of single numbers of 8 bits, by a table of its 256 results.

    y[i] = table[x[i] - least]          x, y [n], table [256], of 8 bits; least: x's type's least number

No kernel: it has no weights, and there is nothing to tune. The phase `look_up_bytes` puts vectors in the place of the
marked loop where the CPU has look-ups in a table of that size.
"""

import numpy as np
from tvm import relax, te
from tvm.relax import op
from tvm.s_tir import Schedule

from tvm_sched.kernels.base import KERNEL_MARK, OPAQUE
from tvm_sched.kernels.fusion import find_block
from tvm_sched.kernels.rewrites.loops import bands
from tvm_sched.targets import Target

NAME = "look_up"  # the block
LOOK_UP = "tvm_sched.look_up"  # mark of its loop, for passes/integer/look_up_bytes
ENTRIES = 256


def looked_up(builder: relax.BlockBuilder, x: relax.Expr, table: relax.Expr) -> relax.Expr:
    """The results of `x`, of any shape, by `table [256]`, the first that of the least number of x's type."""
    shape = [int(extent) for extent in x.ty.shape]
    flat = builder.emit(op.reshape(x, [int(np.prod(shape))]))
    made = builder.emit(builder.call_te(look_up, flat, table, primfunc_name_hint=NAME, primfunc_attrs=OPAQUE))
    return builder.emit(op.reshape(made, shape))


def look_up(x: te.Tensor, table: te.Tensor) -> te.Tensor:
    """The algorithm."""
    least = int(np.iinfo(str(x.dtype)).min)
    attributes = {KERNEL_MARK: NAME}
    return te.compute(x.shape, lambda i: table(x(i).astype("int32") - least), name=NAME, attrs=attributes)


def schedule(sch: Schedule, target: Target) -> None:
    """A part of the numbers a thread."""
    (loop,) = sch.get_loops(find_block(sch, NAME))
    band, loop = sch.split(loop, [bands(int(sch.get(loop).extent), target.cores), None])
    sch.parallel(band)
    sch.annotate(loop, LOOK_UP, 1)
