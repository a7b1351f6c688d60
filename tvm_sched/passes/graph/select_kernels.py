"""Rewrites each convolution and linear layer into the kernel that its plan names, with its weight packed."""

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from subp_contract import pattern
from tvm_sched.kernels import (
    columns_conv2d,
    depthwise_conv2d,
    direct_conv2d,
    pixel_lanes_conv2d,
    space_to_depth,
    winograd_conv2d,
)
from tvm_sched.passes.graph.constants import as_array, constant, is_op, shape_of
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.planning.plan import COLUMNS, PIXEL_LANES, Layer, choose
from tvm_sched.targets import Target

FUSABLE = {"op_pattern": 4}  # TVM's kOutEWiseFusable: elementwise operators that follow go into the kernel's epilogue

INJECTIVE = {"op_pattern": 2}  # TVM's kInjective: a permutation before it is done on the way
OPAQUE = {"op_pattern": 8}  # TVM's kOpaque: fused with nothing


@dataclass(frozen=True)
class Selection:
    """The rewritten module; for each layer, in the order of the network, what was chosen and the constant that holds
    its packed weight.
    """

    mod: IRModule
    choices: list[LayerChoice]
    weights: list  # a Relax constant; None for a layer of zeros alone


def select_kernels(
    mod: IRModule, target: Target, layers: list[tuple[str, int]], ignore_zeros: bool = False
) -> Selection:
    """Rewrites 'main', whose convolutions are NHWC. `layers`: names of layers with the sizes of their weights, in
    order. With `ignore_zeros` every layer is dense: the baseline.
    """
    selector = _Selector(mod, target, layers, ignore_zeros)
    main = mod.get_global_var("main")
    selector.builder_.update_func(main, selector.visit_expr(mod[main]))
    return Selection(selector.builder_.finalize(), selector.choices, selector.weights)


@mutator
class _Selector(PyExprMutator):
    def __init__(self, mod, target, layers, ignore_zeros):
        super().__init__(mod)
        self.target, self.ignore_zeros = target, ignore_zeros
        self.layers = list(layers)
        self.choices, self.weights = [], []
        self.names = {}  # weight -> the name of its layer
        # (weight, how it is applied) -> its plan and packed constants: a layer that runs several times is stored once
        self.packings = {}

    def visit_call_(self, call):
        call = super().visit_call_(call)
        weight = as_array(call.args[1]) if len(call.args) == 2 else None
        if weight is None:
            return call
        if is_op(call, "relax.nn.conv2d") and call.attrs.data_layout == "NHWC":
            return self.convolution(call, weight.transpose(0, 3, 1, 2))
        if (
            is_op(call, "relax.matmul")
            and (matrix := one_matrix(weight)) is not None
            and shape_of(call)[:-1] == shape_of(call.args[0])[:-1]
        ):
            return self.linear(call, matrix.T[:, :, None, None])
        return call

    def convolution(self, call, weight):
        """An NHWC conv2d of weight `[O, C / groups, kh, kw]`."""
        x, groups = call.args[0], int(call.attrs.groups)
        stride, padding, dilation = (tuple(map(int, call.attrs[key])) for key in ("strides", "padding", "dilation"))
        (_, height, width, channels), (batch, out_height, out_width, out_channels) = shape_of(x), shape_of(call)
        shape = f"{channels}x{height}x{width} -> {out_channels}x{out_height}x{out_width}"
        op = f"conv2d {weight.shape[2]}x{weight.shape[3]}"
        op += "".join(
            f" {word} {value}"
            for word, value in (("stride", max(stride)), ("dilation", max(dilation)), ("groups", groups))
            if value > 1
        )
        layer = Layer(op, weight, (batch, out_height, out_width), channels, groups, stride, padding, dilation)
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        if groups == channels == out_channels:
            packed = constant(weight[:, 0].transpose(1, 2, 0))
            why = "depthwise: a block has one input channel, nothing to skip"
            self.record(
                call,
                weight.size,
                packed,
                op,
                shape,
                None,
                1.0,
                1,
                1,
                layer.macs,
                "depthwise",
                why,
                kept_macs=layer.macs,
            )
            return self.builder_.call_te(
                depthwise_conv2d.compute, x, packed, primfunc_name_hint=depthwise_conv2d.NAME, **geometry
            )
        return self.blocks(call, layer, shape, direct_conv2d.conv2d, geometry)

    def linear(self, call, weight):
        """`x @ matrix`, weight `[O, I, 1, 1]`."""
        *rows, channels = shape_of(call.args[0])
        shape = f"{'x'.join(map(str, rows))}x{channels} -> {len(weight)}"
        return self.blocks(call, Layer("linear", weight, (1, 1, prod(rows)), channels), shape, direct_conv2d.linear, {})

    def blocks(self, call, layer, shape, direct, geometry):
        """The layer as 1xN blocks, dense or sparse; `direct` is its direct kernel's compute."""
        if not layer.weight.any() and not self.ignore_zeros:
            self.record(
                call,
                layer.weight.size,
                None,
                layer.op,
                shape,
                None,
                0.0,
                0,
                layer.channels,
                layer.macs,
                "zeros",
                "no block is kept",
            )
            return relax.op.zeros(call.ty.shape, call.ty.dtype)
        key = call.args[1].value, layer.image, layer.groups, layer.stride, layer.padding, layer.dilation
        if key not in self.packings:
            self.packings[key] = self.pack(layer)
        plan, *packed = self.packings[key]
        told = (
            plan.found_n,
            plan.density,
            shape_of(packed[0])[1],
            plan.layer.channels,
            layer.macs,
            plan.kernel,
            plan.why,
        )
        self.record(call, layer.weight.size, packed[0], layer.op, shape, *told, kept_macs=plan.kept_macs(layer))
        x = call.args[0]
        if plan.phased:
            shape, padding = plan.layer.phases_shape(self.target), layer.padding[:2]
            x = self.builder_.emit_te(
                space_to_depth.compute,
                x,
                stride=layer.stride[0],
                padding=padding,
                shape=shape,
                primfunc_name_hint=space_to_depth.NAME,
                primfunc_attrs=INJECTIVE,
            )
        if plan.form:
            packed[0] = self.winograd_weight(packed[0], plan.form)
            compute, name, arguments = (
                partial(winograd_conv2d.compute, form=plan.form),
                winograd_conv2d.NAME,
                {"padding": plan.layer.padding},
            )
        elif plan.how == PIXEL_LANES:
            if layer.stride != (1, 1):
                x = self.builder_.emit(relax.op.strided_slice(x, [1, 2], [0, 0], shape_of(x)[1:3], layer.stride))
            x = self.builder_.emit(relax.op.reshape(x, (prod(layer.image), layer.channels)))
            compute, name = pixel_lanes_conv2d.compute, pixel_lanes_conv2d.NAME
            arguments = {"shape": shape_of(call), "lanes": self.target.lanes}
        elif plan.how == COLUMNS:
            compute, name = columns_conv2d.compute, columns_conv2d.NAME
            arguments = {"out_channels": len(layer.weight), "kernel": layer.weight.shape[2:]} | geometry
        else:
            compute, name, arguments = direct, direct_conv2d.NAME, {"out_channels": len(layer.weight)} | geometry
        return self.builder_.call_te(compute, x, *packed, primfunc_name_hint=name, primfunc_attrs=FUSABLE, **arguments)

    def pack(self, layer):
        """[the layer's plan, its packed data, and the indices where it has them]."""
        plan = choose(layer, self.target, self.ignore_zeros)
        data, indices = pattern.pack(pattern.ungroup(plan.layer.weight, plan.layer.groups), plan.kept, plan.n)
        if plan.how == COLUMNS:
            indices = columns_conv2d.places(indices, layer.channels, layer.weight.shape[2:], layer.dilation)
        return [plan, *(constant(each) for each in (data, indices) if each is not None)]

    def winograd_weight(self, data, form):
        """The transformed weight, a computation that `hoist_constants` will move out of the call."""
        g = constant(np.array(form.weight, "float32"))
        return self.builder_.emit_te(
            winograd_conv2d.transform_weight, data, g, primfunc_name_hint="winograd_weight", primfunc_attrs=OPAQUE
        )

    def record(self, call, size, packed, *choice, kept_macs=0):
        """Notes the choice (the fields of a LayerChoice after the name) for a call whose weight holds `size` numbers:
        under the name of the next layer whose weight has that size, or the name that this very weight has had before.
        """
        weight = call.args[1].value
        if weight not in self.names:
            at = next((i for i, (_, numbers) in enumerate(self.layers) if numbers == size), None)
            self.names[weight] = f"layer {len(self.choices)}" if at is None else self.layers[at][0]
            self.layers = self.layers if at is None else self.layers[at + 1 :]
        self.weights.append(packed)
        self.choices.append(LayerChoice(self.names[weight], *choice, kept_macs=kept_macs))


def one_matrix(weight: np.ndarray) -> np.ndarray | None:
    """The matrix that a stack of matrices `[..., I, O]` repeats (PyTorch makes one to multiply a transposed input);
    None if they differ.
    """
    if weight.ndim < 2:
        return None
    first, *others = weight.reshape(-1, *weight.shape[-2:])
    return first if all(np.array_equal(first, other) for other in others) else None
