"""Stores activations channels last: `[B, C, *spatial]` becomes `[B, *spatial, C]`, from the first convolution on.

The pass walks the network once, in order. Each tensor is known in one of two forms, as the network names its axes
('plain') or with its middle axes moved to the end ('last'); the other form is made, by one permutation, only where an
operator asks for it. Convolutions and pools of fractions make 'last', elementwise operators keep what they get,
reshapes that only split or join channels (channel shuffle) keep it too. An operator that is not listed works on plain
tensors, so every network stays correct.
"""

from tvm import IRModule, relax
from tvm.relax import op as rx

from tvm_sched.kernels.integer.planar.planes import TYPES
from tvm_sched.passes.graph.along_axes import MOVED, regrouped
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.pointwise import BROADCAST, POINTWISE, UNARY, with_axes_moved
from tvm_sched.passes.graph.relax_tools import (
    Conversion,
    as_array,
    constant,
    dtype_of,
    is_op,
    shape_of,
    walked,
)

POOLS = {"relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d", "relax.nn.adaptive_max_pool2d"}


def channels_last(mod: IRModule) -> IRModule:
    """Rewrites 'main'. Its input and its result keep the shapes and the order of axes that the network gave them."""
    return walked(mod, _Walk(relax.BlockBuilder(mod)))


class _Tensor:
    """One tensor of the network in one or both forms. Rank below 3 has no axis between the channels' and the last:
    'plain' is all there is.
    """

    def __init__(self, builder, plain=None, last=None):
        self.builder, self._plain, self._last = builder, plain, last
        self.is_last = last is not None  # the form it was made in, which an operator that can choose should take

    @property
    def plain(self):
        """As the network has it: `[B, C, *spatial]`."""
        if self._plain is None:
            self._plain = self.move(
                self._last, [0, len(self._last.ty.shape) - 1, *range(1, len(self._last.ty.shape) - 1)]
            )
        return self._plain

    @property
    def last(self):
        """`[B, *spatial, C]`."""
        if self._last is None:
            self._last = self.move(self._plain, [0, *range(2, len(self._plain.ty.shape)), 1])
        return self._last

    def move(self, x, axes):
        """A permutation; a mere reshape where it moves no more than axes of extent 1."""
        shape = shape_of(x)
        moved = [shape[axis] for axis in axes]
        array = as_array(x)
        if array is not None:
            return constant(array.transpose(axes))
        longer = [axis for axis in axes if shape[axis] != 1]
        if longer == sorted(longer) and all(shape):  # TVM's reshape takes a 0 for 'as it was'
            return self.builder.emit(rx.reshape(x, moved))
        return self.builder.emit(rx.permute_dims(x, axes))


class _Walk(Conversion):
    """The state of the pass: each variable of the old function has become a _Tensor."""

    def __init__(self, builder):
        super().__init__(builder)
        self.old_values = {}  # old variable -> the expression it was bound to

    def of_param(self, param):
        """A parameter, in the plain form."""
        return _Tensor(self.builder, plain=param)

    def of_binding(self, binding):
        """What a binding's variable becomes."""
        self.old_values[binding.var] = binding.value
        return super().of_binding(binding)

    def of_body(self, body):
        """What the network returns, in the plain form."""
        return self.plain(body)

    def of_constant(self, value):
        """As the network has it."""
        return _Tensor(self.builder, plain=value)

    def of_call(self, call):
        """By the first handler that takes the operator."""
        name = getattr(call.op, "name", None)
        for names, handler in HANDLERS:
            if name in names and (converted := handler(self, call)) is not None:
                return converted
        return self.emit_plain(call)

    def plain(self, value):
        """`value` with the new variables in it, every tensor in its plain form."""
        converted = self.convert(value)
        return relax.Tuple([each.plain for each in converted]) if isinstance(converted, list) else converted.plain

    def emit_plain(self, call):
        """The operator as it was."""
        args = [
            self.plain(arg) if isinstance(arg, (relax.Var, relax.Tuple, relax.TupleGetItem, relax.Call)) else arg
            for arg in call.args
        ]
        made = relax.Call(call.op, args, call.attrs, call.ty_args)
        return self.split_tuple(emit_layer(self.builder, made, self.layer))

    def split_tuple(self, var, last=False):
        """A _Tensor a field where `var` is a tuple."""
        if isinstance(var.ty, relax.TupleType):
            return [
                self.split_tuple(self.builder.emit(relax.TupleGetItem(var, i)), last) for i in range(len(var.ty.fields))
            ]
        return _Tensor(self.builder, last=var) if last else _Tensor(self.builder, plain=var)

    def emit_last(self, expr):
        """Emits an expression whose result (or results) are channels last."""
        return self.split_tuple(self.builder.emit(expr), last=True)

    # Handlers: each answers None where the call is not its own after all.

    def conv2d(self, call):
        """NHWC, weight OHWI; a weight that is computed stays in the plain form."""
        weight = as_array(call.args[1])
        if weight is None or call.attrs.data_layout != "NCHW" or of_planes(call):
            return None
        attrs = {key: call.attrs[key] for key in ("strides", "padding", "dilation", "groups", "out_dtype")}
        x = self.convert(call.args[0]).last
        return _Tensor(self.builder, last=self.emit_conv2d(x, weight.transpose(0, 2, 3, 1), attrs))

    def emit_conv2d(self, x, weight, attrs):
        """The convolution of the layer at hand, NHWC; weight `[O, kh, kw, C / groups]`."""
        conv = rx.nn.conv2d(x, constant(weight), data_layout="NHWC", kernel_layout="OHWI", **attrs)
        return emit_layer(self.builder, conv, self.layer)

    def conv1d(self, call):
        """As a conv2d of images of one row, for which there are kernels."""
        weight = as_array(call.args[1])
        if weight is None or call.attrs.data_layout != "NCW":
            return None
        (stride,), (dilation,), (left, right) = (call.attrs[key] for key in ("strides", "dilation", "padding"))
        attrs = {"strides": [stride, stride], "padding": [0, left, 0, right], "dilation": [dilation, dilation]}
        attrs |= {key: call.attrs[key] for key in ("groups", "out_dtype")}
        x = self.convert(call.args[0]).last
        batch, length, channels = shape_of(x)
        row = self.builder.emit(rx.reshape(x, [batch, 1, length, channels]))
        made = self.emit_conv2d(row, weight.transpose(0, 2, 1)[:, None], attrs)
        batch, _, length, channels = shape_of(made)
        return self.emit_last(rx.reshape(made, [batch, length, channels]))

    def pool(self, call):
        """Pools take a layout."""
        if call.attrs.layout != "NCHW" or of_planes(call):
            return None
        x = self.convert(call.args[0]).last
        make = getattr(rx.nn, call.op.name.removeprefix("relax.nn."))
        if "adaptive" in call.op.name:
            return self.emit_last(make(x, call.attrs.output_size, layout="NHWC"))
        attrs = {
            key: call.attrs[key]
            for key in ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad")
        }
        return self.emit_last(make(x, layout="NHWC", **attrs))

    def unary(self, call):
        """Keeps the form of its input."""
        x = self.convert(call.args[0])
        if not x.is_last:
            return None
        return self.emit_last(relax.Call(call.op, [x.last, *call.args[1:]], call.attrs, call.ty_args))

    def quantise(self, call):
        """Keeps the form of its input; of scales along an axis names that anew."""
        x, rank = self.convert(call.args[0]), len(call.args[0].ty.shape)
        if not x.is_last:
            return None
        make = getattr(rx, call.op.name.removeprefix("relax."))
        axis = last_axis(int(call.attrs.axis), rank)
        return self.emit_last(make(x.last, *call.args[1:], axis=axis, out_dtype=str(call.attrs.out_dtype)))

    def broadcast(self, call):
        """Channels last if an operand is and the result has its rank; operands of lower rank broadcast along leading
        axes.
        """
        operands = [self.convert(arg) for arg in call.args]
        ranks = [len(arg.ty.shape) for arg in call.args]
        if not any(each.is_last and rank == max(ranks) for each, rank in zip(operands, ranks, strict=True)):
            return None
        args = [
            each.last if rank == max(ranks) else self.raise_rank(each.plain, max(ranks))
            for each, rank in zip(operands, ranks, strict=True)
        ]
        return self.emit_last(relax.Call(call.op, args, call.attrs, call.ty_args))

    def raise_rank(self, x, rank):
        """A tensor of lower rank, as it broadcasts, channels last."""
        shape = shape_of(x)
        if not shape:
            return x
        shape = (1,) * (rank - len(shape)) + shape
        array = as_array(x)
        raised = constant(array.reshape(shape)) if array is not None else self.builder.emit(rx.reshape(x, shape))
        return _Tensor(self.builder, plain=raised).last

    def pointwise(self, call):
        """A function of elements: channels last if an operand is."""
        func = self.builder.get()[call.args[0]]
        if POINTWISE not in func.attrs:
            return None
        operands = [self.convert(arg) for arg in call.args[1]]
        rank = len(call.ty.shape)
        if not any(each.is_last for each in operands):
            return None
        order = [0, *range(2, rank), 1]
        args = [
            each.last if len(arg.ty.shape) == rank else each.plain
            for arg, each in zip(call.args[1], operands, strict=True)
        ]
        moved = self.builder.add_func(with_axes_moved(func, order), call.args[0].name_hint)
        shape = shape_of(call)
        ty = relax.TensorType([shape[axis] for axis in order], call.ty.dtype)
        return self.emit_last(relax.call_tir(moved, args, ty))

    def concat(self, call):
        """Along any axis, if a part is channels last."""
        parts = self.convert(call.args[0])
        if not any(part.is_last for part in parts):
            return None
        rank = len(call.ty.shape)
        return self.emit_last(rx.concat([part.last for part in parts], last_axis(int(call.attrs.axis), rank)))

    def split(self, call):
        """Along any axis."""
        x = self.convert(call.args[0])
        if not x.is_last:
            return None
        sections = call.attrs.indices_or_sections
        sections = [int(each) for each in sections] if hasattr(sections, "__len__") else int(sections)
        return self.emit_last(rx.split(x.last, sections, last_axis(int(call.attrs.axis), len(x.last.ty.shape))))

    def along_axes(self, call):
        """Gathers, slices, softmax: along any axis."""
        x = self.convert(call.args[0])
        if not x.is_last:
            return None
        rank = len(call.args[0].ty.shape)
        known = [self.plain(arg) if isinstance(arg, relax.Var) else arg for arg in call.args[1:]]
        moved = MOVED[call.op.name](
            relax.Call(call.op, [x.last, *known], call.attrs, call.ty_args), x.last, lambda axis: last_axis(axis, rank)
        )
        return None if moved is None else self.emit_last(moved)

    def reduce(self, call):
        """Over any axes where they keep an extent of 1, else over the spatial ones: then `[B, C]`, plain, is left."""
        x = self.convert(call.args[0])
        rank = len(call.args[0].ty.shape)
        axes = sorted(int(axis) % rank for axis in call.attrs.axis or ())
        keep = bool(call.attrs.keepdims)
        if not x.is_last or not axes or (not keep and axes != list(range(2, rank))):
            return None
        moved = [last_axis(axis, rank) for axis in axes]
        reduced = getattr(rx, call.op.name.removeprefix("relax."))(x.last, moved, keep)
        return self.emit_last(reduced) if keep else _Tensor(self.builder, plain=self.builder.emit(reduced))

    def reshape(self, call):
        """Of a tensor whose channels are split, moved and joined (`along_axes.regrouped`)."""
        permute = self.old_values.get(call.args[0])
        split = self.old_values.get(permute.args[0]) if is_op(permute, "relax.permute_dims") else None
        if not is_op(split, "relax.reshape") or not permute.attrs.axes:
            return None
        x = self.convert(split.args[0])
        shapes = [shape_of(each) for each in (split.args[0], split, call)]
        made = regrouped(*shapes, [int(axis) for axis in permute.attrs.axes]) if x.is_last else None
        if made is None:
            return None
        apart, order = made
        moved = self.builder.emit(rx.permute_dims(self.builder.emit(rx.reshape(x.last, apart)), order))
        batch, channels, *spatial = shape_of(call)
        return self.emit_last(rx.reshape(moved, [batch, *spatial, channels]))

    def permute_dims(self, call):
        """Where the network itself moves channels: to the end it names what is there, to the front it is put off."""
        x = self.convert(call.args[0])
        rank = len(call.args[0].ty.shape)
        axes = [int(axis) for axis in call.attrs.axes] if call.attrs.axes else list(reversed(range(rank)))
        if rank < 3:
            return None
        if axes == [0, *range(2, rank), 1] and x.is_last:
            return _Tensor(self.builder, plain=x.last)
        if axes == [0, rank - 1, *range(1, rank - 1)] and not x.is_last:
            return _Tensor(self.builder, last=x.plain)
        return None


def of_planes(call) -> bool:
    """Whether an operator works on planes of 8 bits, or of bfloat16's, which stay as they are."""
    return dtype_of(call.args[0]) in TYPES


def last_axis(axis: int, rank: int) -> int:
    """Where axis `axis` of a plain tensor is in its 'last' form."""
    axis %= rank
    return {0: 0, 1: rank - 1}.get(axis, axis - 1)


HANDLERS = (
    ({"relax.nn.conv2d"}, _Walk.conv2d),
    ({"relax.nn.conv1d"}, _Walk.conv1d),
    (POOLS, _Walk.pool),
    (UNARY, _Walk.unary),
    ({"relax.quantize", "relax.dequantize"}, _Walk.quantise),
    (BROADCAST, _Walk.broadcast),
    ({"relax.call_tir"}, _Walk.pointwise),
    ({"relax.concat"}, _Walk.concat),
    ({"relax.split"}, _Walk.split),
    (set(MOVED), _Walk.along_axes),
    ({"relax.mean", "relax.max", "relax.min", "relax.sum"}, _Walk.reduce),
    ({"relax.reshape"}, _Walk.reshape),
    ({"relax.permute_dims"}, _Walk.permute_dims),
)
