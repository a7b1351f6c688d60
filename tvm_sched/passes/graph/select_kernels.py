"""Rewrites each convolution and linear layer into the kernel that its plan names, with its weight packed."""

from collections import Counter
from dataclasses import replace
from math import prod

import numpy as np
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched.kernels.integer.begun_sums import begun
from tvm_sched.kernels.integer.bfloats import BITS, floats_of
from tvm_sched.kernels.integer.planar.planes import TYPES
from tvm_sched.kernels.integer.rounding import Rounding
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
        main = mod["main"]
        self.values = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
        self.readers: dict[relax.Var, list[relax.Var]] = {}  # of a variable, those bound to what reads it
        for var, value in (*self.values.items(), (None, main.body.body)):
            for read in relax.analysis.free_vars(value):
                self.readers.setdefault(read, []).append(var)
        self.rounders = {
            var: mod[value.args[0]].attrs for var, value in self.values.items() if is_op(value, "relax.call_tir")
        }
        self.done: dict[relax.Var, relax.Var] = {}  # whose value another computes
        self.known = set(main.params)  # parameters, and variables that are bound by now
        self.calls = Counter()  # of each layer, by name
        self.bound = None  # the variable whose value is being visited
        # (weight, how it is applied) -> its plan and packed constants: a layer that runs several times is stored once
        self.packings: dict[tuple, tuple[Plan, list]] = {}

    def visit_var_binding_(self, binding):
        self.bound = binding.var
        if binding.var in self.done:  # the layer has rounded
            self.set_var_remap(binding.var, self.visit_expr(self.done[binding.var]))
        else:
            super().visit_var_binding_(binding)
        self.known.add(binding.var)

    def visit_call_(self, call):
        call = super().visit_call_(call)
        weight = as_array(call.args[1]) if len(call.args) == 2 else None
        if weight is None:
            return call
        if is_op(call, "relax.nn.conv2d") and call.attrs.data_layout == "NHWC":
            return self.convolution(call, weight.transpose(0, 3, 1, 2))
        if is_op(call, "relax.nn.conv2d") and call.attrs.data_layout == "NCHW" and dtype_of(call.args[0]) in TYPES:
            return self.planar_convolution(call, weight)
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
        op, geometry = convolution_in_words(weight, stride, dilation, groups), (stride, padding, dilation)
        layer = Layer(op, weight, output, channels, groups, *geometry, **self.about(call, weight))
        return self.layer(call, layer, shape, call.args[0])

    def planar_convolution(self, call, weight):
        """An NCHW conv2d of planes, weight `[O, C / groups, kh, kw]`; padding before it becomes its own."""
        weight = floats_of(weight) if weight.dtype == BITS else weight
        x, padding, zero_point = call.args[0], (0, 0, 0, 0), 0
        pad = self.lookup_binding(x) if isinstance(x, relax.Var) else None
        if is_op(pad, "relax.nn.pad"):
            _, _, _, _, top, bottom, left, right = map(int, pad.attrs.pad_width)
            x, padding, zero_point = pad.args[0], (top, left, bottom, right), int(pad.attrs.pad_value)
        groups = int(call.attrs.groups)
        stride, dilation = (tuple(map(int, call.attrs[key])) for key in ("strides", "dilation"))
        (_, channels, height, width), (batch, out_channels, *image) = shape_of(x), shape_of(call)
        layer = Layer(
            convolution_in_words(weight, stride, dilation, groups),
            weight,
            (batch, *image, out_channels),
            channels,
            groups,
            stride,
            padding,
            dilation,
            **self.about(call, weight),
            input_image=(height, width),
            zero_point=zero_point,
        )
        shape = f"{channels}x{height}x{width} -> {out_channels}x{image[0]}x{image[1]}"
        return self.layer(call, layer, shape, x)

    def linear(self, call, weight):
        """`x @ matrix`, weight `[O, I, 1, 1]`."""
        *rows, channels = shape_of(call.args[0])
        shape = f"{'x'.join(map(str, rows))}x{channels} -> {len(weight)}"
        image = (1, prod(rows))
        about = self.about(call, weight) | {"input_image": image}
        layer = Layer("linear", weight, shape_of(call), channels, linear=True, **about)
        return self.layer(call, layer, shape, call.args[0])

    def about(self, call, weight):
        """What a Layer is told beside its geometry."""
        dtype = dtype_of(call.args[0])
        return {"dtype": dtype, "dense": self.dense, "weight_types": stored_types(weight, self.weights)}

    def layer(self, call, layer, shape, x):
        """The layer on `x` as its plan has it; zeros where its weight holds nothing else."""
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
            sizes |= {"precision": layer.precision, "weights_dtype": layer.precision}
            self.choices[mark] = LayerChoice(name, layer.op, shape, **sizes, kernel=ZEROS, why="no block is kept")
            return relax.op.zeros(call.ty.shape, call.ty.dtype)
        plan, weights = self.packings[key]
        options = self.rounded(plan) if plan.form.kernel.rounds else {}
        choice = plan.choice(name, shape, layer, stored)
        if layer.weight_types == (None,) and (reason := left_out(layer.weight, self.weights)):
            choice = replace(choice, why=f"{choice.why}; {reason}")
        if restriction.why:
            best = self.choose(name, layer, self.target, FREE.default)
            if not restriction.allows(best.form):
                choice = replace(choice, why=f"{choice.why}; {best.kernel} left out: {restriction.why}")
        self.choices[mark] = choice
        x = plan.space_to_depth.call(self.builder_, x) if plan.space_to_depth else x
        weights = [*weights, *options.pop("tensors", [])]
        return plan.form.kernel.call(self.builder_, x, weights, plan.form, plan.form.kernel.marked(mark), **options)

    def rounded(self, plan: Plan) -> dict:
        """`rounding` and its `tensors`, of the new function, where rounding is all that is done with the layer's sums,
        or adding a residual that is known by now, and the result is not the network's; the layer then does it.
        """
        readers = self.readers.get(self.bound, [])
        alone = len(readers) == 1 and readers[0] in self.rounders and isinstance(readers[0], relax.DataflowVar)
        rounding = Rounding.of(self.rounders[readers[0]]) if alone else None
        if rounding is None:
            return {}
        given, count = list(self.values[readers[0]].args[1].fields), len(rounding.coefficients)
        terms, tensors = given[:count], given[count:]
        own = next(i for i, term in enumerate(terms) if term.same_as(self.bound))
        del terms[own]
        adds = plan.form.kernel.adds and not plan.form.layer.linear
        if not all(adds and term in self.known and shape_of(term) == shape_of(self.bound) for term in terms):
            return {}
        self.done[readers[0]] = self.bound
        arrays = [as_array(each).reshape(-1) for each in tensors]
        weight = plan.form.layer.weight
        rounding, arrays = begun(rounding, arrays, weight) or (replace(rounding, own=own), arrays)
        return {"rounding": rounding, "tensors": [*map(self.visit_expr, terms), *map(constant, arrays)]}


def convolution_in_words(weight: np.ndarray, stride: tuple, dilation: tuple, groups: int) -> str:
    """A convolution of weight `[O, C / groups, kh, kw]`, for the reader."""
    numbers = (("stride", max(stride)), ("dilation", max(dilation)), ("groups", groups))
    words = "".join(f" {word} {value}" for word, value in numbers if value > 1)
    return f"conv2d {weight.shape[2]}x{weight.shape[3]}{words}"


def one_matrix(weight: np.ndarray) -> np.ndarray | None:
    """The matrix that a stack of matrices `[..., I, O]` repeats (PyTorch makes one to multiply a transposed input);
    None if they differ.
    """
    if weight.ndim < 2:
        return None
    first, *others = weight.reshape(-1, *weight.shape[-2:])
    return first if all(np.array_equal(first, other) for other in others) else None
