"""Moves 8-bit numbers as they are, where a network dequantises them, moves them and quantises them again:

    quantize(reshape(dequantize(q, s, z)), s, z)  ->  reshape(q)

So do concatenations and channel shuffles, and a maximum of such numbers is the maximum of what they stand for. A value
that several read is dequantised once. Quantising what was just dequantised by the same scale gives it back exactly:
(q - z) s (1/s) is a whole number but for a relative error of 2e-7, and at most 255.
"""

from collections.abc import Callable

import numpy as np
from tvm import IRModule, relax
from tvm.relax import op as rx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched.passes.graph.relax_tools import as_array, is_op, rewritten

QUANTIZE, DEQUANTIZE = "relax.quantize", "relax.dequantize"


def same_operator(call: relax.Call, *operands: relax.Expr, zero_point: int) -> relax.Expr:
    """The operator on 8-bit operands; what follows the tensor among its arguments stays."""
    return relax.Call(call.op, [*operands, *call.args[1:]], call.attrs, call.ty_args)


def joined(call: relax.Call, *operands: relax.Expr, zero_point: int) -> relax.Expr:
    """A concatenation."""
    return rx.concat(list(operands), None if call.attrs.axis is None else int(call.attrs.axis))


def padded(call: relax.Call, x: relax.Expr, zero_point: int) -> relax.Expr | None:
    """A margin of zeros, for which the zero point stands."""
    if call.attrs.pad_mode != "constant" or float(call.attrs.pad_value):
        return None
    return rx.nn.pad(x, [int(each) for each in call.attrs.pad_width], "constant", zero_point)


Move = Callable[..., relax.Expr | None]  # (the call, its operands in 8 bits, their zero point) -> the same of these
MOVES: dict[str, Move] = {
    **dict.fromkeys(
        [
            f"relax.{name}"
            for name in ("reshape", "permute_dims", "squeeze", "expand_dims", "flatten", "strided_slice", "split")
        ],
        same_operator,
    ),
    "relax.nn.max_pool2d": same_operator,
    "relax.concat": joined,
    "relax.nn.pad": padded,
}


def move_in_8_bits(mod: IRModule) -> IRModule:
    """Rewrites 'main'."""
    return relax.transform.DeadCodeElimination()(rewritten(_Mover(mod), mod))


@mutator
class _Mover(PyExprMutator):
    def __init__(self, mod):
        super().__init__(mod)
        self.known = {}  # variable that is not bound any more -> the new one in its place
        self.dequantised = {}  # (new variable of 8 bits, its parameters) -> the new variable of what it stands for
        self.narrow = {}  # (new variable, parameters) -> the new variable of 8 bits that stands for it

    def visit_var_binding_(self, binding):
        value = binding.value
        if is_op(value, QUANTIZE):
            narrow = self.in_8_bits(self.visit_expr(value.args[0]), parameters(value))
            if narrow is not None:
                self.known[binding.var] = narrow
                return
        key = None
        if is_op(value, DEQUANTIZE) and isinstance(q := self.visit_expr(value.args[0]), relax.Var):
            key = q, parameters(value)
            if key[1] is not None and key in self.dequantised:
                self.known[binding.var] = self.dequantised[key]
                return
        super().visit_var_binding_(binding)
        if key is not None:
            self.dequantised[key] = self.visit_expr(binding.var)

    def visit_var_(self, var):
        return self.known[var] if var in self.known else super().visit_var_(var)

    visit_dataflow_var_ = visit_var_

    def in_8_bits(self, expr, wanted):
        """What `expr` is in 8 bits with these parameters, where it is made by moves of such; None where it is not."""
        if wanted is None or not isinstance(expr, relax.Var):
            return None
        if (expr, wanted) not in self.narrow:
            made = self.moved(expr, wanted)
            if made is None:
                return None
            self.narrow[expr, wanted] = made if isinstance(made, relax.Var) else self.builder_.emit(made)
        return self.narrow[expr, wanted]

    def moved(self, expr, wanted):
        value = self.lookup_binding(expr)
        if is_op(value, DEQUANTIZE):
            q = value.args[0]
            return q if parameters(value, str(q.ty.dtype)) == wanted else None
        if isinstance(value, relax.TupleGetItem):
            several = self.in_8_bits(value.tuple_value, wanted)
            return None if several is None else relax.TupleGetItem(several, value.index)
        move = MOVES.get(getattr(getattr(value, "op", None), "name", ""))
        if move is None:
            return None
        first = value.args[0]
        if is_op(value, "relax.concat") and not isinstance(first, relax.Tuple):
            return None
        operands = [
            self.in_8_bits(each, wanted) for each in (first.fields if isinstance(first, relax.Tuple) else [first])
        ]
        return None if any(each is None for each in operands) else move(value, *operands, zero_point=wanted[1])


def parameters(call: relax.Call, dtype: str = "") -> tuple[float, int, str] | None:
    """(scale, zero point, 8-bit type) of a quantisation with one scale, or of a dequantisation whose operand's type is
    given; None where it has a scale a channel, or computes one.
    """
    scale, zero_point = (as_array(each) for each in call.args[1:])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        return None
    name = str(call.attrs.out_dtype) if is_op(call, QUANTIZE) else dtype or str(call.args[0].ty.dtype)
    return float(np.float32(scale.item())), int(zero_point.item()), name
