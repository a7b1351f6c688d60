"""What a value that is not yet computed becomes where it is stored in 8 bits: a sum of integers, a curve of one, a
product of two, any function of a stored value, or several of these behind one another.
"""

from dataclasses import dataclass

from tvm import relax

from tvm_sched.passes.integer.curves import Curve, curved
from tvm_sched.passes.integer.linear_form import Linear, integers
from tvm_sched.passes.integer.products import Product, multiplied
from tvm_sched.passes.integer.tables import Table, tabulated


@dataclass(frozen=True, eq=False)
class Parts:
    """Values of scales of their own, concatenated along an axis."""

    values: tuple[Linear | Curve | Product | Table, ...]
    axis: int
    call: relax.Call  # as the network has it


def stored(builder: relax.BlockBuilder, value: object, scale: float, zero_point: int, dtype: str) -> relax.Expr | None:
    """round(value / scale + zero_point), clipped to an 8-bit type; None of what is no such value. Each part is rounded
    to the scale of the whole where it is made, and then moved.
    """
    if isinstance(value, Linear) and value.terms:
        return integers(builder, value, scale, zero_point, dtype)
    if isinstance(value, Curve):
        return curved(builder, value, scale, zero_point, dtype)
    if isinstance(value, Product):
        return multiplied(builder, value, scale, zero_point, dtype)
    if isinstance(value, Table):
        return tabulated(builder, value, scale, zero_point, dtype)
    if isinstance(value, Parts):
        made = [stored(builder, part, scale, zero_point, dtype) for part in value.values]
        return None if None in made else builder.emit(relax.op.concat(made, value.axis))
    return None
