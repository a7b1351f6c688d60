"""Rewrites each convolution and linear layer into the kernel that its plan names, with its weight packed."""

from collections import Counter
from dataclasses import replace
from math import prod

import numpy as np
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched.kernels.layer import Layer
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.passes.graph.relax_tools import as_array, constant, dtype_of, is_op, rewritten, shape_of
from tvm_sched.planning.explain import ZEROS, LayerChoice
from tvm_sched.planning.narrow_weights import left_out, stored_types
from tvm_sched.planning.plan import FREE, Chooser, Plan, Restrictions, chooser
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import FLOAT32

Choices = dict[str, LayerChoice]  # what was chosen, by the layer's mark, in the order of the network
BY_ESTIMATE = chooser(None)


def select_kernels(
    mod: IRModule,
    target: Target,
    dense: bool = False,
    restrictions: Restrictions = FREE,
    choose: Chooser = BY_ESTIMATE,
    weights: str = FLOAT32,
) -> tuple[IRModule, Choices]:
    """(the module, what was chosen) of 'main', whose convolutions are NHWC. `dense` ignores zeros: the baseline.
    `restrictions`: of the kernels that layers may have. `choose`: gives each its plan. `weights`: dtype in which they
    may be stored.

    A layer that is computed several times, as the steps of a recurrent one are, has a mark for each, of which the first
    is its name.
    """
    selector = _Selector(mod, target, dense, restrictions, choose, weights)
    return rewritten(selector, mod), selector.choices


@mutator
class _Selector(PyExprMutator):
    def __init__(self, mod, target, dense, restrictions, choose, weights):
        super().__init__(mod)
        self.target, self.dense, self.restrictions = target, dense, restrictions
        self.choose, self.weights = choose, weights
        self.choices: Choices = {}
        self.calls = Counter()  # of each layer, by name
        self.bound = None  # the variable whose value is being visited
        # (weight, how it is applied) -> its plan and packed constants: a layer that runs several times is stored once
        self.packings: dict[tuple, tuple[Plan, list]] = {}

    def visit_var_binding_(self, binding):
        self.bound = binding.var
        super().visit_var_binding_(binding)

    def visit_call_(self, call):
        call = super().visit_call_(call)
        weight = as_array(call.args[1]) if len(call.args) == 2 else None
        if weight is None:
            return call
        if is_op(call, "relax.nn.conv2d") and call.attrs.data_layout == "NHWC":
            return self.convolution(call, weight.transpose(0, 3, 1, 2))
        matrix = one_matrix(weight) if is_op(call, "relax.matmul") else None
        if matrix is not None and shape_of(call)[:-1] == shape_of(call.args[0])[:-1]:
            return self.linear(call, matrix.T[:, :, None, None])
        return call

    def convolution(self, call, weight):
        """An NHWC conv2d of weight `[O, C / groups, kh, kw]`."""
        groups = int(call.attrs.groups)
        stride, padding, dilation = (tuple(map(int, call.attrs[key])) for key in ("strides", "padding", "dilation"))
        (_, height, width, channels), output = shape_of(call.args[0]), shape_of(call)
        shape = f"{channels}x{height}x{width} -> {output[3]}x{output[1]}x{output[2]}"
        op = f"conv2d {weight.shape[2]}x{weight.shape[3]}"
        numbers = (("stride", max(stride)), ("dilation", max(dilation)), ("groups", groups))
        op += "".join(f" {word} {value}" for word, value in numbers if value > 1)
        geometry = (output, channels, groups, stride, padding, dilation)
        return self.layer(call, Layer(op, weight, *geometry, **self.about(call, weight)), shape)

    def linear(self, call, weight):
        """`x @ matrix`, weight `[O, I, 1, 1]`."""
        *rows, channels = shape_of(call.args[0])
        shape = f"{'x'.join(map(str, rows))}x{channels} -> {len(weight)}"
        return self.layer(
            call,
            Layer("linear", weight, shape_of(call), channels, linear=True, **self.about(call, weight)),
            shape,
        )

    def about(self, call, weight):
        """What a Layer is told beside its geometry."""
        types = stored_types(weight, self.weights)
        return {"dtype": dtype_of(call), "dense": self.dense, "weight_types": types}

    def layer(self, call, layer, shape):
        """The layer as its plan has it; zeros where its weight holds nothing else."""
        name = layer_of(self.bound) or f"layer {len(self.choices)}"
        restriction = self.restrictions.of(name)
        key = call.args[1].value, layer.image, layer.groups, layer.stride, layer.padding, layer.dilation, restriction
        stored, zeros = 0, not self.dense and not layer.weight.any()
        if key not in self.packings and not zeros:
            plan = self.choose(name, layer, self.target, restriction)
            if plan is None:
                return call  # TVM's own operator, by the generic schedules
            self.packings[key] = plan, [constant(array) for array in plan.form.kernel.pack(plan.form)]
            stored = prod(shape_of(self.packings[key][1][0]))
        mark = name
        while mark in self.choices:  # called before, or named as another's later call is
            self.calls[name] += 1
            mark = f"{name}:{self.calls[name]}"
        if zeros:
            sizes = {"n": None, "density": 0.0, "kept": 0, "total": layer.channels, "macs": layer.macs}
            self.choices[mark] = LayerChoice(name, layer.op, shape, **sizes, kernel=ZEROS, why="no block is kept")
            return relax.op.zeros(call.ty.shape, call.ty.dtype)
        plan, weights = self.packings[key]
        choice = plan.choice(name, shape, layer, stored)
        if layer.weight_types[-1] == FLOAT32 and (reason := left_out(layer.weight, self.weights)):
            choice = replace(choice, why=f"{choice.why}; {reason}")
        if restriction.why:
            best = self.choose(name, layer, self.target, FREE.default)
            if not restriction.allows(best.form):
                choice = replace(choice, why=f"{choice.why}; {best.kernel} left out: {restriction.why}")
        self.choices[mark] = choice
        x = plan.space_to_depth.call(self.builder_, call.args[0]) if plan.space_to_depth else call.args[0]
        return plan.form.kernel.call(self.builder_, x, weights, plan.form, plan.form.kernel.marked(mark))


def one_matrix(weight: np.ndarray) -> np.ndarray | None:
    """The matrix that a stack of matrices `[..., I, O]` repeats (PyTorch makes one to multiply a transposed input);
    None if they differ.
    """
    if weight.ndim < 2:
        return None
    first, *others = weight.reshape(-1, *weight.shape[-2:])
    return first if all(np.array_equal(first, other) for other in others) else None
