"""Constants of a Relax module as NumPy arrays, and back."""

import numpy as np
from tvm import relax
from tvm.ir import GenericConst


def as_array(expr) -> np.ndarray | None:
    """The value of a constant expression; None if it is not one."""
    return expr.value.numpy() if isinstance(expr, GenericConst) and hasattr(expr.value, "numpy") else None


def constant(array: np.ndarray):
    """A Relax constant of that value and dtype."""
    return relax.const(np.asarray(array, order="C"), str(array.dtype))


def is_op(expr, name: str) -> bool:
    """Whether `expr` is a call of that Relax operator."""
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", None) == name


def shape_of(expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape)
