"""Narrows a network to half precision: activations and weights in float16, float32 at the edges and where numbers need
it.

    layers                       float16 operands and result; those that are to stay 'wide', float32
    sums, clips, pools, copies   float16, unless an operand is wide: then so is the result
    sigmoid, softmax, means      computed in float32, since they add up many numbers or have a curve; float16 results,
                                 which have a range that fits
    anything else                float32, and wide: nothing is known of its range (exp, division)

A wide result is narrowed where a layer reads it, a cast that fusion puts into whatever made it. Batch norms have been
folded in float32 before.
"""

from collections.abc import Collection

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.relax import op as rx

from tvm_sched.passes.graph.layer_names import emit_layer, layer_of
from tvm_sched.passes.graph.relax_tools import as_array, constant, walked

HALF, SINGLE = "float16", "float32"
LARGEST = float(np.finfo(HALF).max)
LAYERS = {"relax.nn.conv1d": rx.nn.conv1d, "relax.nn.conv2d": rx.nn.conv2d, "relax.matmul": rx.matmul}
GEOMETRY = ("strides", "padding", "dilation", "groups", "data_layout", "kernel_layout", "out_layout")  # of theirs
KEEPING = {
    f"relax.{name}"
    for name in (
        "add",
        "subtract",
        "multiply",
        "maximum",
        "minimum",
        "negative",
        "abs",
        "clip",
        "nn.relu",
        "nn.leakyrelu",
        "nn.max_pool2d",
        "nn.adaptive_max_pool2d",
        "concat",
        "reshape",
        "flatten",
        "permute_dims",
        "expand_dims",
        "squeeze",
        "broadcast_to",
        "strided_slice",
        "split",
        "take",
        "flip",
        "nn.pad",
        "nn.dropout",
    )
}
BOUNDED = {
    f"relax.{name}"
    for name in (
        "sigmoid",
        "tanh",
        "erf",
        "mean",
        "nn.silu",
        "nn.gelu",
        "nn.gelu_tanh",
        "nn.softmax",
        "nn.avg_pool2d",
        "nn.adaptive_avg_pool2d",
    )
}


def half_precision(mod: IRModule, wide: Collection[str] = ()) -> IRModule:
    """'main' narrowed; what it takes and returns keeps its types. `wide`: names of layers that stay in float32."""
    return walked(mod, _Walk(relax.BlockBuilder(mod), wide))


class _Walk:
    """The state of the pass: the builder of the new function, and what each variable of the old one has become."""

    def __init__(self, builder: relax.BlockBuilder, wide: Collection[str]):
        self.builder, self.wide = builder, wide
        self.known: dict[relax.Var, relax.Expr] = {}
        self.casts: dict[tuple, relax.Expr] = {}  # (variable, type) -> the same in that type

    def of_param(self, param: relax.Var) -> relax.Var:
        """A parameter, as it is."""
        return param

    def of_binding(self, binding: relax.VarBinding) -> relax.Expr:
        """What a binding's variable becomes."""
        value, layer = binding.value, layer_of(binding.var)
        if isinstance(value, relax.Var):
            return self.known[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.new(each) for each in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return self.item(value)
        if not isinstance(value, relax.Call):
            return self.builder.emit(value)
        name = getattr(value.op, "name", "")
        if not float_type(value):
            return self.call(value, SINGLE, layer)
        if name in LAYERS:
            stays = layer is None or layer in self.wide or not all(map(self.in_range, value.args))
            return self.call(value, SINGLE if stays else HALF, layer)
        if name in KEEPING and all(self.narrow(arg) for arg in value.args):
            return self.call(value, HALF, layer)
        made = self.call(value, SINGLE, layer)
        return self.cast(made, HALF) if name in BOUNDED and any(map(self.narrow, value.args)) else made

    def item(self, value: relax.TupleGetItem) -> relax.Expr:
        """An element of what has become of a tuple."""
        tuple_value = self.new(value.tuple_value)
        if isinstance(tuple_value, relax.Tuple):
            return tuple_value.fields[value.index]
        return self.builder.emit(relax.TupleGetItem(tuple_value, value.index))

    def call(self, value: relax.Call, dtype: str, layer: str | None) -> relax.Expr:
        """The call with its floating-point operands in that type."""
        args = [self.typed(arg, dtype) for arg in value.args]
        if remake := LAYERS.get(getattr(value.op, "name", "")):
            attrs = {key: value.attrs[key] for key in GEOMETRY if hasattr(value.attrs, key)}
            made = remake(*args, **attrs, out_dtype=dtype)
        else:
            made = relax.Call(value.op, args, value.attrs, value.ty_args)
        return emit_layer(self.builder, self.builder.normalize(made), layer)

    def typed(self, arg: relax.Expr, dtype: str) -> relax.Expr:
        """An operand of the old function in that type; others than fractions as they are."""
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self.typed(each, dtype) for each in arg.fields])
        arg = self.new(arg)
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self.cast(each, dtype) for each in arg.fields])
        return self.cast(arg, dtype)

    def cast(self, expr: relax.Expr, dtype: str) -> relax.Expr:
        """An expression of the new function in that type."""
        if float_type(expr) in (None, dtype):
            return expr
        if isinstance(expr, GenericConst):
            return constant(as_array(expr).astype(dtype))
        key = expr, dtype
        if key not in self.casts:
            self.casts[key] = self.builder.emit(rx.astype(expr, dtype))
        return self.casts[key]

    def narrow(self, arg: relax.Expr) -> bool:
        """Whether an operand of the old function may be one of half precision: no fraction, a constant in range, or
        what is one by now.
        """
        if isinstance(arg, relax.Tuple):
            return all(map(self.narrow, arg.fields))
        arg = self.new(arg)
        if isinstance(arg, relax.Tuple):
            return all(float_type(each) in (None, HALF) for each in arg.fields)
        if isinstance(arg, GenericConst):
            return self.in_range(arg)
        return float_type(arg) in (None, HALF)

    def in_range(self, arg: relax.Expr) -> bool:
        """Whether an operand of the old function is no constant, or has no number beyond half precision."""
        array = as_array(arg)
        if array is None or array.dtype != SINGLE or not array.size:
            return True
        return float(np.abs(array).max()) <= LARGEST

    def new(self, expr: relax.Expr) -> relax.Expr:
        """What an expression of the old function has become."""
        return self.known.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def of_body(self, body: relax.Expr) -> relax.Expr:
        """What the network returns, in its own types."""
        return self.as_before(body)

    def as_before(self, expr: relax.Expr) -> relax.Expr:
        """A result of the old function, in its own type."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.as_before(each) for each in expr.fields])
        made, before = self.new(expr), expr.ty
        if hasattr(before, "fields"):
            items = made.fields if isinstance(made, relax.Tuple) else []
            items = items or [self.builder.emit(relax.TupleGetItem(made, i)) for i in range(len(before.fields))]
            return relax.Tuple([self.cast(item, str(ty.dtype)) for item, ty in zip(items, before.fields, strict=True)])
        return self.cast(made, str(before.dtype))


def float_type(expr: relax.Expr) -> str | None:
    """The type of a tensor of single or half precision, or of the first of a tuple; None for any other."""
    ty = expr.ty
    if hasattr(ty, "fields"):
        ty = ty.fields[0] if len(ty.fields) else ty
    dtype = str(getattr(ty, "dtype", ""))
    return dtype if dtype in (HALF, SINGLE) else None
