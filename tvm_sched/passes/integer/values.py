"""What the variables of a quantised network have become while `integer_layers` walks it."""

from abc import abstractmethod
from dataclasses import replace

import numpy as np
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.relax_tools import Conversion, as_array
from tvm_sched.passes.integer.curves import Curve
from tvm_sched.passes.integer.left import LAYERS, Left, why_not
from tvm_sched.passes.integer.linear_form import Linear, Quantised, Weight, fractions, integers, quantised
from tvm_sched.passes.integer.products import Product
from tvm_sched.passes.integer.storing import Parts
from tvm_sched.passes.integer.tables import Table

# Values that are computed where they are stored, or as the network has them.
UNCOMPUTED = (Curve, Product, Parts, Table)


class Values(Conversion):
    """The state of the pass: each variable of the old function has become an expression, a Linear, a Weight, or one of
    UNCOMPUTED.
    """

    def __init__(self, builder: relax.BlockBuilder, activation: str, left: Left):
        super().__init__(builder)
        self.activation, self.left = activation, left
        self.moved: dict = {}  # new variable of 8-bit integers -> what was added to the network's numbers
        self.made: dict = {}  # id of a Linear -> its tensor in float32

    def of_body(self, body: relax.Expr) -> relax.Expr:
        """What the network returns, as tensors."""
        return self.tensor(body)

    def of_call(self, call: relax.Call):
        """By its handler, else the operator as it was."""
        made = self.handled(call)
        return self.plain(call) if made is None else made

    @abstractmethod
    def handled(self, call: relax.Call):
        """What an operator makes of its operands; None where it is to stay as it is."""

    def plain(self, call: relax.Call):
        """The operator as it was, on tensors."""
        args = [self.tensor(arg) if isinstance(arg, relax.Expr) else arg for arg in call.args]
        made = emit_layer(self.builder, relax.Call(call.op, args, call.attrs, call.ty_args), self.layer)
        if any(self.was_quantised(self.convert(arg)) for arg in call.args if isinstance(arg, relax.Expr)):
            layer = self.layer if call.op.name in LAYERS else None
            why = why_not(self.linear(call.args[0]), self.convert(call.args[1])) if layer else ""
            self.left.note(call, made, layer, why)
        return made

    def was_quantised(self, made) -> bool:
        """Whether a value is made of 8-bit integers, by way of fractions or not."""
        if isinstance(made, list):
            return any(self.was_quantised(each) for each in made)
        if isinstance(made, Linear):
            return bool(made.terms)
        return isinstance(made, UNCOMPUTED) or made in self.left.results

    def tensor(self, value) -> relax.Expr:
        """An expression with the new variables in it, every value computed, in the network's own types."""
        return self.computed(self.convert(value) if isinstance(value, relax.Expr) else value)

    def computed(self, made) -> relax.Expr:
        """What an expression has become, computed."""
        if isinstance(made, list):
            return relax.Tuple([self.computed(each) for each in made])
        if isinstance(made, Linear):
            if id(made) not in self.made:
                self.made[id(made)] = (made, fractions(self.builder, made))  # kept, so that no other gets its id
            return self.made[id(made)][1]
        if isinstance(made, UNCOMPUTED):
            if id(made) not in self.made:
                layer, self.layer = self.layer, None
                self.made[id(made)] = (made, self.plain(made.call))
                self.layer = layer
            return self.made[id(made)][1]
        if isinstance(made, Weight):
            value = self.builder.emit(made.call)
            return self.builder.emit(rx.permute_dims(value)) if made.transposed else value
        if made in self.moved:
            by = self.moved[made]
            wide = rx.subtract(rx.astype(made, "int16"), relax.const(by, "int16"))
            return self.builder.emit(rx.astype(wide, "int8" if by > 0 else "uint8"))
        return made

    def linear(self, value) -> Linear | None:
        """A sum of integers, or one constant; None for any other value."""
        made = self.convert(value)
        if isinstance(made, Linear):
            return made
        array = as_array(made) if isinstance(made, relax.Expr) else None
        return None if array is None or array.dtype != np.float32 else Linear((), array.astype("float64"))

    def bytes(self, value) -> Quantised | None:
        """What an expression is in 8-bit integers of the target's type."""
        made = self.linear(value)
        return None if made is None else self.bytes_of(made)

    def bytes_of(self, value: Linear) -> Quantised | None:
        """A value in 8-bit integers, where it is made of them."""
        same = quantised(Linear(value.terms, value.bias), self.activation)
        if same is None or not value.clipped:
            return same
        return replace(same, tensor=integers(self.builder, value, same.scale, same.zero_point, self.activation))
