"""What several passes do with a Relax module: constants as NumPy arrays and back, questions, a new 'main'."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator

from tvm_sched.passes.graph.layer_names import layer_of


def as_array(expr) -> np.ndarray | None:
    """The value of a constant expression, a view that cannot be written to; None if it is not one."""
    if not isinstance(expr, GenericConst) or not hasattr(expr.value, "__dlpack__"):
        return None
    try:
        view = np.from_dlpack(expr.value)
    except RuntimeError:  # of a type that NumPy itself does not have, such as bfloat16
        view = expr.value.numpy()
    view.flags.writeable = False
    return view


def weight_bytes(function: relax.Function, dense: bool) -> int:
    """Of its constants of at least two axes, the weights; of their zeros only where those are computed (`dense`)."""
    weights: list[np.ndarray] = []

    def visit(expr: relax.Expr) -> None:
        array = as_array(expr)
        if array is not None and array.ndim > 1:
            weights.append(array)

    relax.analysis.post_order_visit(function, visit)
    return sum(array.nbytes if dense else np.count_nonzero(array) * array.itemsize for array in weights)


def constant(array: np.ndarray) -> GenericConst:
    """A Relax constant of that value and dtype: a copy, and the only one, of an array in any order."""
    if array.dtype.name == "bfloat16":  # which NumPy's exchange of memory does not know
        return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array)))
    tensor = tvm.runtime.empty(array.shape, str(array.dtype))
    np.from_dlpack(tensor)[...] = array
    return relax.const(tensor)


def is_op(expr, name: str) -> bool:
    """Whether `expr` is a call of that Relax operator."""
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", None) == name


def is_kernel_call(expr) -> bool:
    """Whether `expr` is a call of a TIR function."""
    return is_op(expr, "relax.call_tir") or is_op(expr, "relax.call_tir_inplace")


def shape_of(expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape)


def dtype_of(expr: relax.Expr) -> str:
    """Data type of a tensor expression."""
    return str(expr.ty.dtype)


def rewritten(mutator: PyExprMutator, mod: IRModule) -> IRModule:
    """The module whose 'main' a mutator of it has rewritten."""
    main = mod.get_global_var("main")
    mutator.builder_.update_func(main, mutator.visit_expr(mod[main]))
    return mutator.builder_.finalize()


class Walk(Protocol):
    """What `walked` asks for. `known`: what each variable of the old function has become, in a form of the pass's."""

    builder: relax.BlockBuilder
    known: dict[relax.Var, Any]

    def of_param(self, param: relax.Var) -> Any:
        """The form of a parameter of the new function."""

    def of_binding(self, binding: relax.VarBinding) -> Any:
        """What a binding's variable becomes."""

    def of_body(self, body: relax.Expr) -> relax.Expr:
        """What the new function returns, where the old one returned `body`."""


class Conversion(ABC):
    """A walk that says of each expression what it has become; of a tuple it is a list. `layer`: whose operator, if any
    layer's, is being converted.
    """

    def __init__(self, builder: relax.BlockBuilder):
        self.builder = builder
        self.known: dict[relax.Var, Any] = {}
        self.layer: str | None = None

    def of_param(self, param: relax.Var) -> Any:
        """A parameter, which stays as it is."""
        return param

    def of_binding(self, binding: relax.VarBinding) -> Any:
        """What a binding's variable becomes."""
        self.layer = layer_of(binding.var)
        return self.convert(binding.value)

    def convert(self, value: relax.Expr) -> Any:
        """What an expression of the old function has become."""
        if isinstance(value, relax.Var):
            return self.known[value]
        if isinstance(value, relax.Tuple):
            return [self.convert(each) for each in value.fields]
        if isinstance(value, relax.TupleGetItem):
            whole = self.convert(value.tuple_value)
            is_list = isinstance(whole, list)
            return whole[value.index] if is_list else self.builder.emit(relax.TupleGetItem(whole, value.index))
        return self.of_call(value) if isinstance(value, relax.Call) else self.of_constant(value)

    def of_constant(self, value: relax.Expr) -> Any:
        """What a constant becomes, or a shape: it stays as it is."""
        return value

    @abstractmethod
    def of_call(self, call: relax.Call) -> Any:
        """What an operator's result becomes."""


def walked(mod: IRModule, walk: Walk) -> IRModule:
    """The module whose 'main' was written anew, one binding after the other. `walk.builder` is of the module."""
    name, main = "walked", mod["main"]
    params = [relax.Var(param.name, param.ty) for param in main.params]
    walk.known |= {old: walk.of_param(new) for old, new in zip(main.params, params, strict=True)}
    with walk.builder.function(name, params, attrs=dict(main.attrs or {})):
        with walk.builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    walk.known[binding.var] = walk.of_binding(binding)
            result = walk.builder.emit_output(walk.of_body(main.body.body))
        walk.builder.emit_func_output(result)
    return with_main(mod, walk.builder.finalize(), name)


def with_main(mod: IRModule, built: IRModule, name: str) -> IRModule:
    """`built`, made by a BlockBuilder from `mod`, with its function `name` in the place of 'main'."""
    functions = {var: function for var, function in built.functions.items() if var.name_hint not in ("main", name)}
    return IRModule(
        {mod.get_global_var("main"): built[name].with_attr("global_symbol", "main"), **functions}, attrs=mod.attrs
    )
