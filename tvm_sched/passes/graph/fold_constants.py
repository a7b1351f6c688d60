"""Computes what depends on constants alone: transposed weights, relative position biases.

TVM's FoldConstant compiles a function for every operator that it folds, 50 ms each; a transformer has hundreds of them.
So what NumPy can do in a line is done here first, and the rest left to TVM's pass. That is run only where something is
left, for it lowers every operator of the network to see which of them it could fold. Constant positions, by which a
network gathers, become int32: that is what schedules take (`schedule_functions.takes_int64`); and those that count from
the end, as in x[:, -1], count from the start: TVM's take reads before x there.
"""

from math import prod

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched.passes.graph.relax_tools import as_array, constant, is_op, rewritten, shape_of

GATHERS = ("relax.take", "relax.gather_elements")
LIKE = ("relax.full_like", "relax.zeros_like", "relax.ones_like")  # of their first tensor only the shape matters


def permuted(call, x):
    return x.transpose([int(axis) for axis in call.attrs.axes] if call.attrs.axes else None)


def taken(call, x, indices):
    return np.take(x, indices, None if call.attrs.axis is None else int(call.attrs.axis))


def reshaped(call, x):
    return x.reshape(shape_of(call))


def broadcast(call, x):
    return np.broadcast_to(x, shape_of(call))


def sliced(call, x):
    axes, begins, ends, *strides = ([int(each) for each in argument.fields] for argument in call.args[1:])
    where = [slice(None)] * x.ndim
    for axis, begin, end, stride in zip(axes, begins, ends, *(strides or [[1] * len(axes)]), strict=True):
        where[axis] = slice(begin, end, stride)
    return x[tuple(where)]


def scattered(call, x, part):
    begin, end, stride = (int(each) for each in call.args[2:])
    x = x.copy()
    np.moveaxis(x, int(call.attrs.axis), 0)[begin:end:stride] = np.moveaxis(part, int(call.attrs.axis), 0)
    return x


def clipped(call, x):
    return x.clip(*(bound.value for bound in call.args[1:]))


def along(call, parameter, x):
    """A scale or zero point of `call` as it broadcasts to x."""
    axis = int(call.attrs.axis) % max(x.ndim, 1)
    return parameter.reshape(-1, *[1] * (x.ndim - 1 - axis)) if parameter.ndim else parameter


def dequantised(call, q, scale, zero_point):
    wide = q.astype("float32") - along(call, zero_point, q).astype("float32")
    return wide * along(call, scale, q)


def from_start(positions, extent: int):
    """Constant positions along an axis of `extent`, none of them negative, as int32; others as they are."""
    array = as_array(positions)
    return positions if array is None else constant(np.where(array < 0, array + extent, array).astype("int32"))


FOLDS = {  # operator -> (the call, its tensors) -> array
    "relax.permute_dims": permuted,
    "relax.take": taken,
    "relax.strided_slice": sliced,
    "relax.slice_scatter": scattered,
    "relax.clip": clipped,
    "relax.dequantize": dequantised,
    **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"), reshaped),
    **dict.fromkeys(("relax.broadcast_to", "relax.full", "relax.full_like"), broadcast),
    **dict.fromkeys(("relax.zeros", "relax.zeros_like"), lambda call: np.zeros(shape_of(call))),
    **dict.fromkeys(("relax.ones", "relax.ones_like"), lambda call: np.ones(shape_of(call))),
    "relax.arange": lambda call: np.arange(*(each.value for each in call.args)),
    "relax.astype": lambda _, x: x,
    "relax.abs": lambda _, x: np.abs(x),
    "relax.nn.relu": lambda _, x: np.maximum(x, 0),
    "relax.sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "relax.exp": lambda _, x: np.exp(x),
    "relax.matmul": lambda _, a, b: a @ b,
    "relax.add": lambda _, a, b: a + b,
    "relax.subtract": lambda _, a, b: a - b,
    "relax.multiply": lambda _, a, b: a * b,
    "relax.mod": lambda _, a, b: a % b,
    "relax.equal": lambda _, a, b: a == b,
    "relax.not_equal": lambda _, a, b: a != b,
    "relax.where": lambda _, condition, a, b: np.where(condition, a, b),
}


@tvm.transform.module_pass(opt_level=0, name="fold_constants")
def fold_constants(mod: IRModule, _context) -> IRModule:
    """Folds what it can in 'main'."""
    folded = rewritten(_Folder(mod), mod)
    return relax.transform.FoldConstant()(folded) if calls_of_constants(folded["main"]) else folded


def calls_of_constants(function: relax.Function) -> list[relax.Call]:
    """The calls in a function that depend on nothing it computes or is given."""
    calls = []
    relax.analysis.post_order_visit(function, lambda expr: calls.append(expr) if isinstance(expr, relax.Call) else None)
    return [call for call in calls if not relax.analysis.free_vars(call) and not is_empty(call)]


def is_empty(call: relax.Call) -> bool:
    """Whether an expression is a tensor without elements, which TVM cannot store as a constant."""
    return isinstance(call.ty, relax.TensorType) and 0 in shape_of(call)


@mutator
class _Folder(PyExprMutator):
    def __init__(self, mod):
        super().__init__(mod)
        self.known = {}  # variable -> the constant that it stands for

    def visit_var_binding_(self, binding):
        folded = self.folded(binding.value)
        if folded is None:
            super().visit_var_binding_(binding)
        else:
            self.known[binding.var] = folded

    def folded(self, value):
        """The constant that an expression is, or None."""
        if not isinstance(value, relax.Call):
            return value if as_array(value) is not None else None
        name = getattr(value.op, "name", "")
        if name not in FOLDS or is_empty(value):
            return None
        tensors = [arg for arg in value.args if isinstance(arg.ty, relax.TensorType)]
        if name in LIKE:
            tensors = tensors[1:]
        arrays = [as_array(self.known.get(arg, arg)) for arg in tensors]
        if any(array is None for array in arrays):
            return None
        return constant(np.asarray(FOLDS[name](value, *arrays), str(value.ty.dtype)))

    def visit_call_(self, call):
        call = super().visit_call_(call)
        if any(is_op(call, name) for name in GATHERS):
            shape, axis = shape_of(call.args[0]), call.attrs.axis
            where = from_start(call.args[1], prod(shape) if axis is None else shape[int(axis)])
        elif is_op(call, "relax.index_tensor") and isinstance(call.args[1], relax.Tuple):
            along = zip(call.args[1].fields, shape_of(call.args[0]), strict=False)  # the axes behind are taken whole
            where = relax.Tuple([from_start(*each) for each in along])
        else:
            return call
        return relax.Call(call.op, [call.args[0], where], call.attrs, call.ty_args)

    def visit_var_(self, var):
        return self.known[var] if var in self.known else super().visit_var_(var)

    visit_dataflow_var_ = visit_var_
