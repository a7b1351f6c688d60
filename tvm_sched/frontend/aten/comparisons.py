"""Comparisons of elements, NaN among them."""

from collections.abc import Callable

from tvm import relax, tirx
from tvm.relax import op as rx

from tvm_sched.frontend.aten.converter import Builder, Operand, converts
from tvm_sched.frontend.aten.pointwise import BOOLEAN, computed
from tvm_sched.passes.graph.relax_tools import dtype_of


@converts("isnan")
def isnan(builder: Builder, x: relax.Expr) -> relax.Expr:
    """Whether x is NaN. As x != x TVM takes it for False."""
    return computed(builder, tirx.isnan, x, kind=BOOLEAN)


def _comparison(name: str, make: Callable[..., relax.Expr], alike: bool | None = None) -> None:
    """Enters a comparison; of booleans as of the numbers 0 and 1. `alike`: what a number gives beside itself, where NaN
    does not: TVM would not look.
    """

    def convert(builder: Builder, x: Operand, y: Operand) -> relax.Expr:
        if alike is not None and isinstance(x, relax.Expr) and x.same_as(y):
            return builder.emit(rx.logical_not(isnan(builder, x))) if alike else isnan(builder, x)
        exprs, _ = builder.promote(x, y, kind=BOOLEAN)
        return builder.emit(
            make(*(builder.cast(each, "uint8") if dtype_of(each) == "bool" else each for each in exprs))
        )

    converts(name)(convert)


_comparison("eq", rx.equal, True)
_comparison("ne", rx.not_equal, False)
_comparison("lt", rx.less)
_comparison("le", rx.less_equal, True)
_comparison("gt", rx.greater)
_comparison("ge", rx.greater_equal, True)
