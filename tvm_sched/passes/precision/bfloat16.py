"""Narrows a network to bfloat16: convolutions multiply numbers of bfloat16 and add up in float32.

    y = conv(bits(x), bits(w)) + b  ...  relu, residual, anything: float32, in the convolution's epilogue
    bits(y)                              what the next layers read; who else reads y gets the float32 of these bits

So what lies between two layers is stored once, in 16 bits, and images stay as the network has them, `[B, C, H, W]`, for
kernels in planes (`kernels/integer/planar`). Linear layers, and convolutions that are to stay 'wide', compute in
float32. A pool of the greatest over what is not negative compares the bits, which are in the same order.
"""

from collections.abc import Collection

from tvm import IRModule, relax, te
from tvm.relax import op as rx

from tvm_sched.kernels.integer.bfloats import bits_of, to_bits, to_float
from tvm_sched.passes.graph.layer_names import emit_layer, layer_of
from tvm_sched.passes.graph.pointwise import POINTWISE
from tvm_sched.passes.graph.relax_tools import as_array, constant, dtype_of, is_op, shape_of, walked
from tvm_sched.passes.integer.linear_form import emitted
from tvm_sched.passes.integer.pools import pool_of

SINGLE = "float32"
GEOMETRY = ("strides", "dilation", "groups")  # of convolutions, besides padding


def bfloat16(mod: IRModule, wide: Collection[str] = ()) -> IRModule:
    """'main' narrowed; what it takes and returns keeps its types. `wide`: names of layers that stay in float32."""
    return walked(mod, _Walk(relax.BlockBuilder(mod), wide))


class _Walk:
    """The state of the pass: the builder of the new function, and what each variable of the old one has become."""

    def __init__(self, builder: relax.BlockBuilder, wide: Collection[str]):
        self.builder, self.wide = builder, wide
        self.known: dict[relax.Var, relax.Expr] = {}
        self.bits: dict[relax.Var, relax.Expr] = {}  # variable of the old function -> its bits
        self.params: set[relax.Var] = set()  # of the new function
        self.positive: set[relax.Var] = set()  # variables of the old function that are 0 or more

    def of_param(self, param: relax.Var) -> relax.Var:
        """A parameter, as it is."""
        self.params.add(param)
        return param

    def of_binding(self, binding: relax.VarBinding) -> relax.Expr:
        """What a binding's variable becomes."""
        var, call = binding.var, binding.value
        if is_op(call, "relax.nn.relu") or (is_op(call, "relax.clip") and float(call.args[1].value) >= 0):
            self.positive.add(var)
        if is_op(call, "relax.nn.conv2d") and (made := self.convolution(call, layer_of(var))) is not None:
            return made
        if is_op(call, "relax.nn.max_pool2d") and (made := self.greatest(var, call)) is not None:
            return made
        if is_op(call, "relax.nn.adaptive_avg_pool2d") and shape_of(call)[2:] == (1, 1) and call.attrs.layout == "NCHW":
            return self.builder.emit(rx.mean(self.new(call.args[0]), [2, 3], True))
        return emit_layer(self.builder, self.new(call), layer_of(var))

    def convolution(self, call: relax.Call, layer: str | None) -> relax.Expr | None:
        """A convolution of float32 numbers as one of bits, its padding before it; None for another."""
        weight, x = as_array(call.args[1]), call.args[0]
        if weight is None or layer is None or layer in self.wide or dtype_of(x) != SINGLE:
            return None
        if call.attrs.data_layout != "NCHW" or not isinstance(x, relax.Var):
            return None
        data, (top, left, bottom, right) = self.narrow(x), map(int, call.attrs.padding)
        if any((top, left, bottom, right)):
            data = self.builder.emit(rx.nn.pad(data, [0, 0, 0, 0, top, bottom, left, right], pad_value=0))
        attrs = {key: call.attrs[key] for key in GEOMETRY}
        made = rx.nn.conv2d(data, constant(bits_of(weight)), padding=[0, 0], out_dtype=SINGLE, **attrs)
        return emit_layer(self.builder, made, layer)

    def greatest(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """A pool of the greatest over numbers that are not negative; None for another."""
        x, pool = call.args[0], pool_of(call)
        if pool is None or x not in self.positive or dtype_of(x) != SINGLE:
            return None
        self.positive.add(var)
        self.bits[var] = pool.greatest(self.builder, self.narrow(x))
        return self.float_of(self.bits[var])

    def narrow(self, x: relax.Var) -> relax.Expr:
        """The bits of a variable of the old function, which all that follows is then to read."""
        if x not in self.bits:
            attributes = {POINTWISE: True}
            self.bits[x] = emitted(self.builder, "to_bfloat16", _to_bits, [self.known[x]], attributes)
            if self.known[x] not in self.params:  # the network's inputs are there as they are
                self.known[x] = self.float_of(self.bits[x])
        return self.bits[x]

    def float_of(self, bits: relax.Expr) -> relax.Expr:
        """The float32 numbers of bits."""
        return emitted(self.builder, "from_bfloat16", _to_float, [bits], {POINTWISE: True})

    def new(self, expr: relax.Expr) -> relax.Expr:
        """What an expression of the old function has become."""
        if isinstance(expr, relax.Var):
            return self.known.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.new(each) for each in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.new(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [self.new(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    def of_body(self, body: relax.Expr) -> relax.Expr:
        """What the network returns."""
        return self.new(body)


def _to_bits(x: te.Tensor) -> te.Tensor:
    """Of every element."""
    return te.compute(x.shape, lambda *at: to_bits(x(*at)), name="to_bfloat16")


def _to_float(bits: te.Tensor) -> te.Tensor:
    """Of every element."""
    return te.compute(bits.shape, lambda *at: to_float(bits(*at)), name="from_bfloat16")
