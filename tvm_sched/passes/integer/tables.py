"""Any function of one stored value of a quantised network, as a table of its 256 results.

What operators make of such a value, one after another or several together (x tanh(softplus(x))), is computed here for
each of its 256 numbers, in float32 by NumPy; a rounding makes the table where it is stored again. Elementwise functions
that have no operator are TIR functions of the front end's (`passes/graph/pointwise`), whose expression is computed too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import erf
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, relax, tirx
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer.look_up import looked_up
from tvm_sched.passes.graph.fold_constants import FOLDS
from tvm_sched.passes.graph.relax_tools import constant, shape_of
from tvm_sched.passes.integer.curves import Curve
from tvm_sched.passes.integer.linear_form import Linear, Quantised, quantised
from tvm_sched.passes.integer.products import Product

FOLDED = ("clip", "abs", "nn.relu", "sigmoid", "exp", "add", "subtract", "multiply", "equal", "not_equal", "where")
MORE: dict[str, Callable[..., np.ndarray]] = {
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "power": np.power,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "negative": np.negative,
    "tanh": np.tanh,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "erf": np.vectorize(erf, otypes=["float32"]),
    "nn.silu": lambda x: x / (1 + np.exp(-x)),
}
OPERATORS: dict[str, Callable[..., np.ndarray]] = {  # (the call, its operands) -> its result
    **{f"relax.{name}": FOLDS[f"relax.{name}"] for name in FOLDED},
    **{f"relax.{name}": lambda _, *x, make=make: make(*x) for name, make in MORE.items()},
    "relax.nn.leakyrelu": lambda call, x: np.where(x > 0, x, x * np.float32(call.attrs.alpha)),
}
NODES: dict[type, Callable[..., np.ndarray]] = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.Div: np.divide,
    tirx.Max: np.maximum,
    tirx.Min: np.minimum,
    tirx.LT: np.less,
    tirx.LE: np.less_equal,
    tirx.GT: np.greater,
    tirx.GE: np.greater_equal,
    tirx.EQ: np.equal,
    tirx.NE: np.not_equal,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
}
CALLS = (
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "tanh",
    "sinh",
    "cosh",
    "fabs",
    "floor",
    "ceil",
)


@dataclass(frozen=True, eq=False)
class Table:
    """What such a function makes of each number of x, the least first, not yet stored."""

    x: Quantised
    numbers: np.ndarray  # [256], float32, or booleans
    call: relax.Call  # as the network has it


def stored_numbers(dtype: str) -> np.ndarray:
    """The 256 numbers of an 8-bit type."""
    limits = np.iinfo(dtype)
    return np.arange(limits.min, limits.max + 1, dtype="int32")


def table_of(value: Any, dtype: str) -> Table | None:
    """A value of the walk as a function of one that is stored in `dtype`; None where it is none."""
    if isinstance(value, Table):
        return value
    if isinstance(value, Linear) and value.terms:
        x = quantised(Linear(value.terms, value.bias), dtype)
        if x is None:
            return None
        numbers = np.float32(x.scale) * (stored_numbers(dtype) - x.zero_point).astype("float32")
        return Table(x, numbers.clip(value.low, value.high), None)
    if isinstance(value, Curve):
        return applied(value.call, [table_of(value.value, dtype)], value.name)
    if isinstance(value, Product):
        factors = [table_of(each, dtype) for each in (value.one, value.other)]
        made = applied(value.call, factors, "relax.multiply")
        return None if made is None else Table(made.x, made.numbers * np.float32(value.factor), value.call)
    return None


def applied(
    call: relax.Call, operands: Sequence[Table | np.ndarray | None], name: str = "", func: PrimFunc | None = None
) -> Table | None:
    """What an operator, or a function of elements, makes of functions of one stored value, and of single numbers; None
    where nothing is known of it, or of an operand.
    """
    known = [each for each in operands if isinstance(each, Table)]
    make = OPERATORS.get(name) if func is None else lambda _, *arrays: computed(func, arrays)
    alike = all(isinstance(each, Table) or (each is not None and each.size == 1) for each in operands)
    if make is None or not known or not alike or any(each.x.tensor is not known[0].x.tensor for each in known):
        return None
    if shape_of(call) != shape_of(known[0].x.tensor):  # a single number of more axes
        return None
    arrays = [each.numbers if isinstance(each, Table) else each.reshape(()) for each in operands]
    with np.errstate(all="ignore"):  # infinite and no numbers are clipped, as they would be where they are computed
        numbers = make(call, *arrays)
    if numbers is None:
        return None
    return Table(known[0].x, numbers if numbers.dtype == bool else numbers.astype("float32"), call)


def computed(func: PrimFunc, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """What a function of elements gives; None where NumPy has no word for a part of it."""
    stores: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, stores.append), order="post")
    buffers = dict(zip(func.params, arrays, strict=False))  # the last parameter is the result's
    return value_of(stores[0].value, buffers) if len(stores) == 1 else None


def value_of(expr: ir.Expr, buffers: Mapping[Any, np.ndarray]) -> np.ndarray | None:
    """An expression's, of the numbers that it loads."""
    of = partial(value_of, buffers=buffers)
    if isinstance(expr, ir.TensorLoad):
        return buffers.get(expr.source)
    if isinstance(expr, (tirx.IntImm, tirx.FloatImm)):
        return np.asarray(expr.value, str(expr.ty.dtype))
    make, parts = None, []
    if type(expr) in NODES:
        make, parts = NODES[type(expr)], [expr.a, expr.b]
    elif isinstance(expr, tirx.Select):
        make, parts = np.where, [expr.condition, expr.true_value, expr.false_value]
    elif isinstance(expr, tirx.Cast):
        make, parts = partial(np.ndarray.astype, dtype=str(expr.ty.dtype)), [expr.value]
    elif isinstance(expr, ir.Call) and (name := function_name(expr)) in CALLS:
        make, parts = getattr(np, name), [each for each in expr.args if not isinstance(each, ir.StringImm)]
    values = [of(part) for part in parts]
    return None if make is None or any(value is None for value in values) else make(*values)


def function_name(call: ir.Call) -> str:
    """What a call is of: TVM's operator, or a function of C's mathematics library for float32."""
    name = getattr(call.op, "name", "").removeprefix("tirx.")
    return str(call.args[0].value).removesuffix("f") if name == "call_pure_extern" else name


def tabulated(builder: relax.BlockBuilder, table: Table, scale: float, zero_point: int, dtype: str) -> relax.Expr:
    """clip(round(function / scale + zero_point)) in an 8-bit type. A number that is none becomes the least."""
    limits = np.iinfo(dtype)
    whole = np.rint(table.numbers.astype("float64") / scale) + zero_point
    entries = np.nan_to_num(whole, nan=limits.min, posinf=limits.max, neginf=limits.min).clip(limits.min, limits.max)
    return looked_up(builder, table.x.tensor, constant(entries.astype(dtype)))
