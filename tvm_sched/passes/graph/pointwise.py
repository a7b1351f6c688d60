"""Operators and functions whose every element depends on the elements of the operands at its own position: they may be
computed in any order of axes.
"""

from collections.abc import Sequence

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import IndexMap, PrimFunc

POINTWISE = "subp.pointwise"  # the attribute of such functions, whose operands have the result's rank, or rank 0
# Relax's operators: of one tensor, and of several, which broadcast.
UNARY = {
    f"relax.{name}"
    for name in (
        *("nn.relu", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.dropout", "sigmoid", "tanh", "erf"),
        *("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "negative", "abs", "sign", "floor", "ceil"),
        *("round", "clip", "astype", "logical_not", "zeros_like", "full_like"),
    )
}
BROADCAST = {
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "where", "equal", "not_equal"),
        *("greater", "greater_equal", "less", "less_equal", "logical_and", "logical_or"),
    )
}


def with_axes_moved(func: PrimFunc, order: Sequence[int]) -> PrimFunc:
    """The function for operands and a result whose axis i is the old axis order[i]."""
    sch, rank = Schedule(IRModule({"main": func})), len(order)
    moved = IndexMap.from_func(lambda *axes: [axes[axis] for axis in order], ndim=rank)
    (block,) = sch.get_child_blocks(sch.get_sblock("root"))
    for i, read in enumerate(sch.get(block).reads):
        if len(read.source.shape) == rank:
            sch.transform_layout(block, ("read", i), moved)
    sch.transform_layout(block, ("write", 0), moved)
    sch.transform_block_layout(block, moved)
    return sch.mod["main"].with_attrs(dict(func.attrs))
