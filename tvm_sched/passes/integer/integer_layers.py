"""Quantised layers in integers: what a network holds as dequantise, convolution, quantise becomes an integer
convolution and one rounding.

    conv(sx * (x - zx), sw * w) + b  =  sx * sw * conv_int(x, w) - sx * sw * zx * sum(w) + b

The pass walks the network once, in order, and knows each value in one of three forms: a tensor; 8-bit integers with
scale and zero point; a sum of integer tensors that is not computed yet (`linear_form.py`). Convolutions and products
with constant weights, additions, scalings and ReLUs keep the last form, what only moves or compares numbers works on
the integers, and quantising computes them. Any other operator gets float32. Padding of an integer convolution is by its
zero point, as an operator before it, which `select_kernels` takes into the layer.

Activations have the 8-bit type that the target's dot products take; numbers of the other are moved by 128, as their
zero points are.
"""

from dataclasses import replace
from math import inf, prod

import numpy as np
from tvm import IRModule, relax
from tvm.relax import op as rx

from tvm_sched.kernels.integer.planar.planar_pool import MOST_SUMMED, Pool
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.pointwise import POINTWISE
from tvm_sched.passes.graph.relax_tools import as_array, constant, dtype_of, is_op, shape_of, walked
from tvm_sched.passes.integer.curves import FALLING, SIGMOID, SILU, Curve
from tvm_sched.passes.integer.left import MOVES, Left
from tvm_sched.passes.integer.linear_form import (
    BYTE,
    INT32,
    Linear,
    Quantised,
    Term,
    Weight,
)
from tvm_sched.passes.integer.pools import adaptive_pool, divisors, image_sums, pool_of
from tvm_sched.passes.integer.products import Product
from tvm_sched.passes.integer.storing import Parts, stored
from tvm_sched.passes.integer.tables import Table, applied, table_of
from tvm_sched.passes.integer.values import Values

MOST_TERMS = 4  # of a sum that is put off: each that reads it reads them all
IMAGE = 4  # axes of images `[B, C, H, W]`
BYTES = {"uint8": 0, "int8": -128}  # 8-bit types, and their least numbers


def integer_layers(mod: IRModule, activation: str, left: Left | None = None) -> IRModule:
    """Rewrites 'main', if it dequantises anything; `activation` is the dtype of its 8-bit tensors. `left` gets told
    what stays in float32.
    """
    bindings = (binding for block in mod["main"].body.blocks for binding in block.bindings)
    if not any(is_op(binding.value, "relax.dequantize") for binding in bindings):
        return mod
    return walked(mod, _Walk(relax.BlockBuilder(mod), activation, left or Left()))


class _Walk(Values):
    """The handlers: each answers None where the call is not its own after all."""

    def handled(self, call):
        handler = HANDLERS.get(getattr(call.op, "name", ""))
        made = handler(self, call) if handler else None
        return self.tabulated(call) if made is None else made

    def tabulated(self, call):
        """A function of one stored value, and of numbers."""
        name, args, func = getattr(call.op, "name", ""), call.args, None
        if name == "relax.call_tir":
            func, args = self.builder.get()[args[0]], getattr(args[1], "fields", ())
            if POINTWISE not in (func.attrs or {}):
                return None
        return applied(call, [self.operand(arg) for arg in args if isinstance(arg.ty, relax.TensorType)], name, func)

    def operand(self, arg):
        """A function of one stored value, or a constant's numbers; None for anything else."""
        made = self.convert(arg)
        array = as_array(made) if isinstance(made, relax.Expr) else None
        return table_of(made, self.activation) if array is None else array

    def dequantize(self, call):
        """A sum of one term, or a weight."""
        scale, zero_point = (as_array(arg) for arg in call.args[1:])
        if scale is None or zero_point is None:
            return None
        array, scale = as_array(call.args[0]), scale.astype("float64")
        if array is not None:
            fits = array.dtype == np.int8 and not zero_point.any()
            if not fits or (scale.size > 1 and int(call.attrs.axis) % array.ndim):
                return None
            return Weight(call, array, scale.reshape(-1))
        if scale.size > 1 or dtype_of(call.args[0]) not in BYTES:
            return None
        x = self.of_target(call.args[0])
        zero = int(zero_point.reshape(-1)[0]) + self.moved.get(x, 0)
        return Quantised(x, float(scale.reshape(-1)[0]), zero).linear

    def of_target(self, value):
        """8-bit integers in the target's type, once for all that read them."""
        x = self.convert(value)
        if x not in self.moved and (by := BYTES[self.activation] - BYTES[dtype_of(x)]):
            wide = rx.add(rx.astype(x, "int16"), relax.const(by, "int16"))
            x = self.keep(self.builder.emit(rx.astype(wide, self.activation)), by)
            self.known[value] = x
        return x

    def quantize(self, call):
        """Integers of the target's 8-bit type."""
        scale, zero_point = (as_array(arg) for arg in call.args[1:])
        dtype = dtype_of(call)
        if dtype not in BYTES or scale is None or zero_point is None or scale.size > 1:
            return None
        by = BYTES[self.activation] - BYTES[dtype]
        zero = int(zero_point.reshape(-1)[0]) + by
        made = stored(self.builder, self.convert(call.args[0]), float(scale.reshape(-1)[0]), zero, self.activation)
        if made is None:  # fractions: the network's input, or what stayed in float32
            kind = self.activation if dtype_of(call.args[2]) == dtype else "int32"  # as `legalize` tells ONNX's
            fraction, zero = self.tensor(call.args[0]), relax.const(zero, kind)
            made = self.builder.emit(rx.quantize(fraction, call.args[1], zero, out_dtype=self.activation))
        return self.keep(made, by)

    def keep(self, tensor, by: int):
        """Notes what was added to the network's numbers."""
        if by:
            self.moved[tensor] = by
        return tensor

    def conv2d(self, call):
        """An integer convolution, its padding before it."""
        x, weight = self.bytes(call.args[0]), self.convert(call.args[1])
        if x is None or not isinstance(weight, Weight) or call.attrs.data_layout != "NCHW" or weight.most >= INT32:
            return None
        data, padding = x.tensor, [int(each) for each in call.attrs.padding]
        if any(padding):
            top, left, bottom, right = padding
            width = [0, 0, 0, 0, top, bottom, left, right]
            data = self.builder.emit(rx.nn.pad(data, width, pad_value=x.zero_point))
        attrs = {key: call.attrs[key] for key in ("strides", "dilation", "groups")}
        made = rx.nn.conv2d(data, constant(weight.array), padding=[0, 0], out_dtype="int32", **attrs)
        return self.product(made, x, weight, (-1, 1, 1))

    def matmul(self, call):
        """A product with a constant matrix, which is one transposed."""
        x, weight = self.bytes(call.args[0]), self.convert(call.args[1])
        weight = weight.of_outputs if isinstance(weight, Weight) else None
        if x is None or weight is None or weight.most >= INT32:
            return None
        made = rx.matmul(x.tensor, constant(weight.array.T), out_dtype="int32")
        return self.product(made, x, weight, (-1,))

    def product(self, made, x: Quantised, weight: Weight, shape: tuple) -> Linear:
        """What a layer's integers stand for. `shape`: of a number for each output channel."""
        tensor = emit_layer(self.builder, made, self.layer)
        scale = (x.scale * weight.scale).reshape(shape if weight.scale.size > 1 else ())
        term = Term(tensor, scale, weight.most_of(self.activation))
        return Linear((term,), -scale * x.zero_point * weight.rows.sum(axis=1).reshape(shape))

    def permute_dims(self, call):
        """Of a weight, a matrix: it stays one."""
        weight = self.convert(call.args[0])
        if isinstance(weight, Weight) and weight.array.ndim == 2 and not weight.transposed:
            return Weight(weight.call, weight.array, weight.scale, transposed=True)
        return self.moving(call)

    def add(self, call):
        """Of two sums, or of a sum and constants."""
        one, other = (self.linear(arg) for arg in call.args)
        if one is None or other is None or not 0 < len(one.terms) + len(other.terms) <= MOST_TERMS:
            return None
        return one.plus(other)

    def multiply(self, call):
        """Of a sum, or a product, and constants; or of two sums."""
        made = [self.convert(arg) for arg in call.args]
        one, other = (self.linear(arg) for arg in call.args)
        if one is None or other is None:
            return self.gated(made, one or other, call)
        if one.terms and other.terms:
            return Product(one, other, 1.0, call)
        value, factor = (one, other) if one.terms else (other, one)
        return value.times(factor.bias) if value.terms else None

    def gated(self, made: list, value: Linear | None, call):
        """y sigmoid(y), of a sum y; or a product, and a number."""
        (known,) = [each for each in made if isinstance(each, (Curve, Product))] or [None]
        if isinstance(known, Curve) and known.name == SIGMOID and known.value is value:
            return Curve(value, SILU, call)
        if isinstance(known, Product) and value is not None and not value.terms and np.size(value.bias) == 1:
            return known.times(float(np.max(value.bias)), call)
        return None

    def divide(self, call):
        """By constants."""
        value, divisor = self.convert(call.args[0]), self.linear(call.args[1])
        if divisor is None or divisor.terms or not np.all(divisor.bias):
            return None
        if isinstance(value, Product) and np.size(divisor.bias) == 1:
            return value.times(1 / float(np.max(divisor.bias)), call)
        return value.times(1 / divisor.bias) if isinstance(value, Linear) and value.terms else None

    def relu(self, call):
        """Of a sum."""
        value = self.linear(call.args[0])
        return None if value is None or not value.terms else value.clip(0.0, inf)

    def clip(self, call):
        """Of a sum, or of integers."""
        value, made = self.linear(call.args[0]), self.convert(call.args[0])
        low, high = (float(bound.value) for bound in call.args[1:])
        if isinstance(made, relax.Expr) and made in self.moved:
            by = self.moved[made]
            return self.keep(self.builder.emit(rx.clip(made, int(low) + by, int(high) + by)), by)
        return None if value is None or not value.terms else value.clip(low, high)

    def bound(self, call):
        """The larger, or the smaller, of a sum and a number."""
        one, other = (self.linear(arg) for arg in call.args)
        if one is None or other is None or bool(one.terms) == bool(other.terms):
            return None
        value, limit = (one, other) if one.terms else (other, one)
        if np.size(limit.bias) > 1:
            return None
        number = float(np.max(limit.bias))
        return value.clip(number, inf) if call.op.name == "relax.maximum" else value.clip(-inf, number)

    def curve(self, call):
        """Of a sum."""
        value = self.linear(call.args[0])
        return None if value is None or not value.terms or value.clipped else Curve(value, call.op.name, call)

    def moving(self, call):
        """What moves numbers, or picks the greatest, does so with integers."""
        x = self.bytes(call.args[0])
        if x is None:
            return None
        made = relax.Call(call.op, [x.tensor, *call.args[1:]], call.attrs, call.ty_args)
        return self.fields(self.builder.emit(made), x)

    def fields(self, made: relax.Expr, x: Quantised):
        """What integers of x's scale stand for, or each of several tensors of them."""
        if isinstance(made.ty, relax.TupleType):
            count = len(made.ty.fields)
            return [self.fields(self.builder.emit(relax.TupleGetItem(made, i)), x) for i in range(count)]
        return Quantised(made, x.scale, x.zero_point).linear

    def concat(self, call):
        """Of integers of one scale, or of several that are to be rounded to one."""
        parts, axis = call.args[0], call.attrs.axis
        values = self.convert(parts) if isinstance(parts, (relax.Tuple, relax.Var)) else None
        if axis is None or not isinstance(values, list):
            return None
        if not all(
            isinstance(value, (Curve, Product, Table)) or (isinstance(value, Linear) and value.terms)
            for value in values
        ):
            return None
        each = [self.bytes_of(value) if isinstance(value, Linear) and value.terms else None for value in values]
        first = each[0]
        if any(x is None or (x.scale, x.zero_point) != (first.scale, first.zero_point) for x in each):
            return Parts(tuple(values), int(axis), call)
        made = self.builder.emit(rx.concat([x.tensor for x in each], int(call.attrs.axis)))
        return Quantised(made, first.scale, first.zero_point).linear

    def max_pool(self, call):
        """Of integers."""
        x, pool = self.bytes(call.args[0]), pool_of(call)
        if x is None or pool is None:
            return self.moving(call)
        return replace(x, tensor=pool.greatest(self.builder, x.tensor)).linear

    def average_pool(self, call):
        """Sums of integers, divided by how many they are; the margin is of the zero point."""
        pool = pool_of(call)
        return None if pool is None else self.sums(call.args[0], pool, divisors(call, pool))

    def adaptive_average_pool(self, call):
        """A mean over the whole image, or over windows that do not overlap."""
        if call.attrs.layout == "NCHW" and shape_of(call)[2:] == (1, 1):
            return self.mean(rx.mean(call.args[0], [2, 3], True))
        pool = adaptive_pool(call)
        return None if pool is None else self.sums(call.args[0], pool, np.float64(prod(pool.window)))

    def sums(self, value, pool: Pool, by: np.ndarray) -> Linear | None:
        """The windows' sums divided `by` numbers, of 8-bit integers."""
        x, count = self.bytes(value), prod(pool.window)
        if x is None or count > MOST_SUMMED:
            return None
        made = pool.sums(self.builder, x.tensor, x.zero_point)
        return Linear((Term(made, x.scale / by, BYTE * count),), -x.scale * x.zero_point * count / by)

    def mean(self, call):
        """Over an image: a sum's mean is the mean of its terms."""
        value = self.linear(call.args[0])
        if value is None or len(value.terms) != 1 or value.clipped or np.size(value.bias) > 1:
            return None
        (term,) = value.terms
        if np.size(term.coefficient) > 1:
            return None
        rank, keep = len(shape_of(call.args[0])), bool(call.attrs.keepdims)
        axes = [int(axis) % rank for axis in call.attrs.axis or ()]
        if rank == IMAGE and sorted(axes) == [2, 3] and dtype_of(term.tensor) in BYTES:
            count = prod(shape_of(call.args[0])[2:])
            made = image_sums(self.builder, term.tensor, keep)
            return Linear((Term(made, term.coefficient / count, BYTE * count),), value.bias)
        made = self.builder.emit(rx.mean(self.builder.emit(rx.astype(term.tensor, "float32")), axes, keep))
        return Linear((replace(term, tensor=made),), value.bias)


MOVING = (
    *MOVES,
    "relax.nn.adaptive_max_pool2d",
    "relax.max",
    "relax.min",
)
HANDLERS = {
    "relax.dequantize": _Walk.dequantize,
    "relax.quantize": _Walk.quantize,
    "relax.nn.conv2d": _Walk.conv2d,
    "relax.matmul": _Walk.matmul,
    "relax.permute_dims": _Walk.permute_dims,
    "relax.add": _Walk.add,
    "relax.multiply": _Walk.multiply,
    "relax.divide": _Walk.divide,
    "relax.nn.relu": _Walk.relu,
    "relax.clip": _Walk.clip,
    "relax.maximum": _Walk.bound,
    "relax.minimum": _Walk.bound,
    "relax.concat": _Walk.concat,
    "relax.mean": _Walk.mean,
    "relax.nn.max_pool2d": _Walk.max_pool,
    "relax.nn.avg_pool2d": _Walk.average_pool,
    "relax.nn.adaptive_avg_pool2d": _Walk.adaptive_average_pool,
    **dict.fromkeys(FALLING, _Walk.curve),
    **dict.fromkeys(MOVING, _Walk.moving),
}
