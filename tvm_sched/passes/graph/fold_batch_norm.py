"""Folds batch normalisation, at inference a per-channel scale and shift, into the convolution before it.

    bn(conv(x, W) + b) = conv(x, scale * W) + (scale * b + shift)
    where scale = gamma / sqrt(var + eps) and shift = beta - mean * scale

A normalisation that follows something else (DenseNet), or a convolution that others read too, becomes a multiplication
and an addition. Blocks of zeros stay zero.
"""

from collections import Counter

import numpy as np
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched.passes.graph.layer_names import emit_layer, layer_of
from tvm_sched.passes.graph.relax_tools import as_array, constant, is_op, rewritten

CONVOLUTIONS = ("relax.nn.conv2d", "relax.nn.conv1d")


def fold_batch_norm(mod: IRModule) -> IRModule:
    """Removes every nn.batch_norm of constant statistics from 'main'."""
    return relax.transform.DeadCodeElimination()(rewritten(_Folder(mod), mod))


@mutator
class _Folder(PyExprMutator):
    def __init__(self, mod):
        super().__init__(mod)
        main = mod["main"]
        self.values = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
        self.readers = Counter(
            var for value in (*self.values.values(), main.body.body) for var in relax.analysis.free_vars(value)
        )

    def visit_tuple_getitem_(self, item):
        before = self.values.get(item.tuple_value)
        item = super().visit_tuple_getitem_(item)
        norm = self.lookup_binding(item.tuple_value)
        if item.index != 0 or not is_op(norm, "relax.nn.batch_norm") or int(norm.attrs.axis) != 1:
            return item
        statistics = [as_array(arg) for arg in norm.args[1:]]
        if any(each is None for each in statistics):
            return item
        gamma, beta, mean, variance = (each.astype("float64") for each in statistics)
        scale = gamma / np.sqrt(variance + float(norm.attrs.epsilon))
        made, bias = self.split_bias(norm.args[0]) if self.read_once(before.args[0]) else (None, None)
        return self.scale_and_shift(norm.args[0], made, bias, scale, beta - mean * scale)

    def read_once(self, x):
        """Whether a normalisation is all that reads x, which may be a convolution and its bias."""
        while self.readers[x] == 1 and is_op(self.values.get(x), "relax.add"):
            x = self.values[x].args[0]
        return self.readers[x] == 1

    def scale_and_shift(self, x, made, bias, scale, shift):
        """scale * x + shift, one number a channel, in the convolution that gave `made`, if one did, and its `bias`."""
        conv = self.lookup_binding(made) if isinstance(made, relax.Var) else None
        weight = as_array(conv.args[1]) if any(is_op(conv, name) for name in CONVOLUTIONS) else None
        per_channel, dtype = (-1,) + (1,) * (len(x.ty.shape) - 2), str(x.ty.dtype)
        if weight is None or bias is None:
            x = self.builder_.emit(relax.op.multiply(x, constant(scale.reshape(per_channel).astype(dtype))))
        else:
            scaled = constant((weight * scale.reshape((*per_channel, 1))).astype(weight.dtype))
            scaled_conv = relax.Call(conv.op, [conv.args[0], scaled], conv.attrs, conv.ty_args)
            x = emit_layer(self.builder_, scaled_conv, layer_of(made))
            shift = shift + scale * bias
        return relax.op.add(x, constant(shift.reshape(per_channel).astype(dtype)))

    def split_bias(self, x):
        """(result of the convolution, bias per channel or 0.0) where x is one, or one + constant; the bias is None
        where the constant is no bias.
        """
        value = self.lookup_binding(x) if isinstance(x, relax.Var) else x
        if not is_op(value, "relax.add"):
            return x, 0.0
        bias = as_array(value.args[1])
        channels = int(x.ty.shape[1])
        per_channel = (channels,) + (1,) * (len(x.ty.shape) - 2)
        if bias is None or bias.size != channels or bias.shape[-len(per_channel) :] != per_channel:
            return x, None
        return value.args[0], bias.reshape(-1).astype("float64")
