"""What converters are made of: the registry, and the Builder that they emit Relax through."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import tvm
from torch import fx
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Promotion
from torch._prims_common import elementwise_dtypes
from tvm import relax, te, tirx

from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.pointwise import POINTWISE
from tvm_sched.passes.graph.relax_tools import constant, dtype_of, shape_of

__all__ = ["CONVERTERS", "Builder", "Operand", "Promotion", "computing", "converts", "metas", "name_of_dtype"]

Operand = relax.Expr | bool | int | float  # a tensor, or a number that takes its dtype from the others
CONVERTERS: dict[str, Callable[..., Any]] = {}  # ATen's name with overload, 'add.Tensor' -> its converter


def converts(*names: str) -> Callable:
    """Registers a function (builder, *all arguments of the operator's schema) as the converter of these operators; a
    name without an overload stands for all of them.
    """

    def register(function: Callable) -> Callable:
        for name in names:
            assert name not in CONVERTERS, name
            CONVERTERS[name] = function
        return function

    return register


def name_of_dtype(dtype: torch.dtype) -> str:
    """TVM's name for a dtype, which is PyTorch's."""
    return str(dtype).removeprefix("torch.")


def computing(dtype: str) -> str:
    """The dtype that numbers of this one are summed in."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def metas(value: Any) -> list[Any]:
    """A node's results, one or several, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


class Builder:
    """Emits the Relax of one node after another. Constants are PyTorch's tensors until a Relax call takes them."""

    def __init__(self, builder: relax.BlockBuilder):
        self.relax = builder
        self.node: fx.Node  # the node being converted
        self.layer: str | None = None  # what its layer is called, if it computes one
        self._constants: dict[int, tuple[torch.Tensor, relax.Expr]] = {}  # by id
        self._tensors: dict[relax.Expr, torch.Tensor] = {}
        self._derived: dict[tuple, torch.Tensor] = {}

    @property
    def meta(self) -> Any:
        """What torch.export knows of the node's result: a tensor without data, or a sequence of them."""
        return self.node.meta.get("val")

    @property
    def shape(self) -> list[int]:
        """Shape of the node's result, a tensor."""
        return list(self.meta.shape)

    @property
    def dtype(self) -> str:
        """Dtype of the node's result, a tensor."""
        return name_of_dtype(self.meta.dtype)

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Binds an expression to a variable."""
        return self.relax.emit(expr)

    def emit_layer(self, expr: relax.Expr) -> relax.Var:
        """Binds the node's convolution or matrix product to a variable of the layer's name."""
        return emit_layer(self.relax, expr, self.layer)

    def te(self, function: Callable, *args: Any, name: str = "", **attrs: Any) -> relax.Var:
        """A call of what TE computes: `function(*placeholders, **attrs)`."""
        hint = name or getattr(function, "__name__", "te")
        return self.emit(self.relax.call_te(function, *args, primfunc_name_hint=hint, **attrs))

    def fields(self, several: relax.Expr, count: int) -> tuple[relax.Var, ...]:
        """The first fields of a tuple."""
        return tuple(self.emit(relax.TupleGetItem(several, i)) for i in range(count))

    def pointwise(self, function: Callable, *operands: relax.Expr, name: str = "pointwise") -> relax.Var:
        """`function` of the operands' elements, which broadcast; they may have different dtypes."""
        shape = list(torch.broadcast_shapes(*(shape_of(each) for each in operands)))
        raised = [self.reshape(each, raised_to(len(shape), shape_of(each))) for each in operands]

        def elements(*tensors: te.Tensor) -> te.Tensor:
            def element(*position: Any) -> Any:
                return function(*(tensor(*at(position, tensor.shape)) for tensor in tensors))

            return te.compute(shape, element, name=name)

        call = self.relax.call_te(elements, *raised, primfunc_name_hint=name)
        var = call.args[0]
        self.relax.update_func(var, self.relax.get()[var].with_attr(POINTWISE, True))
        return self.emit(call)

    def constant(self, tensor: torch.Tensor) -> relax.Expr:
        """A constant; the same one for the same tensor."""
        if not tensor.numel():  # which TVM cannot store
            return self.emit(relax.op.zeros(list(tensor.shape), name_of_dtype(tensor.dtype)))
        if id(tensor) not in self._constants:
            made = constant_of(tensor)
            self._constants[id(tensor)] = tensor, made
            self._tensors[made] = tensor
        return self._constants[id(tensor)][1]

    def known(self, expr: relax.Expr) -> torch.Tensor | None:
        """The tensor that a constant was made of."""
        return self._tensors.get(expr)

    def derived(self, source: torch.Tensor, *key: Any, make: Callable[[torch.Tensor], torch.Tensor]) -> relax.Expr:
        """The constant `make(source)`; the same one for the same tensor and key, so that a layer that runs twice is
        stored once. `source` is kept by the program.
        """
        if (id(source), *key) not in self._derived:
            self._derived[(id(source), *key)] = make(source)
        return self.constant(self._derived[(id(source), *key)])

    def number(self, value: float, dtype: str) -> relax.Expr:
        """A number as a tensor of rank 0."""
        return self.constant(torch.tensor(value, dtype=getattr(torch, dtype)))

    def cast(self, expr: relax.Expr, dtype: str) -> relax.Expr:
        """As PyTorch casts: to a boolean by comparing with 0, to an integer towards 0."""
        if dtype_of(expr) == dtype:
            return expr
        if (tensor := self.known(expr)) is not None:
            return self.derived(tensor, "cast", dtype, make=lambda source: source.to(getattr(torch, dtype)))
        if dtype_of(expr) == "bool":  # of which TVM's code generation compares and casts little
            expr = self.emit(relax.op.astype(expr, "uint8"))
            return expr if dtype == "uint8" else self.emit(relax.op.astype(expr, dtype))
        if dtype == "bool":
            return self.emit(relax.op.not_equal(expr, self.number(0, dtype_of(expr))))
        if dtype == "bfloat16":
            expr = self.pointwise(rounded_to_bfloat16, self.cast(expr, "float32"), name="round_to_bfloat16")
        return self.emit(relax.op.astype(expr, dtype))

    def promote(self, *operands: Operand, kind: Promotion = Promotion.DEFAULT) -> tuple[list[relax.Expr], str]:
        """(the operands in the dtype that PyTorch computes in, the result's dtype) of an elementwise operator.
        Half-precision numbers are computed with in float32, as PyTorch does.
        """
        compute, result = elementwise_dtypes(*map(typed, operands), type_promotion_kind=kind)
        return [self.as_tensor(each, name_of_dtype(compute)) for each in operands], name_of_dtype(result)

    def as_tensor(self, operand: Operand, dtype: str) -> relax.Expr:
        """A tensor or a number in this dtype."""
        return self.cast(operand, dtype) if isinstance(operand, relax.Expr) else self.number(operand, dtype)

    def reshape(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """The same numbers in another shape."""
        if (tensor := self.known(expr)) is not None:
            return self.derived(tensor, "reshape", *shape, make=lambda source: source.reshape(tuple(shape)))
        return expr if list(shape_of(expr)) == list(shape) else self.emit(relax.op.reshape(expr, list(shape)))

    def broadcast(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """The tensor broadcast to a shape."""
        return expr if list(shape_of(expr)) == list(shape) else self.emit(relax.op.broadcast_to(expr, list(shape)))


def raised_to(rank: int, shape: Sequence[int]) -> list[int]:
    """The shape with axes of extent 1 before it; of rank 0 as it is."""
    return [1] * (rank - len(shape)) + list(shape) if shape else []


def at(position: Sequence[Any], shape: Sequence[Any]) -> list[Any]:
    """Where an element of a broadcast result stands in an operand of that shape."""
    tail = position[len(position) - len(shape) :] if len(shape) else []
    return [0 if int(extent) == 1 else index for index, extent in zip(tail, shape, strict=True)]


def rounded_to_bfloat16(x: Any) -> Any:
    """The nearest number of bfloat16, halves to even, as a float32: the cast itself cuts the low bits off."""
    bits = tirx.reinterpret("uint32", x)
    one, half = tirx.const(1, "uint32"), tirx.const(0x7FFF, "uint32")
    nearest = bits + half + tirx.bitwise_and(tirx.shift_right(bits, tirx.const(16, "uint32")), one)
    kept = tirx.reinterpret("float32", tirx.bitwise_and(nearest, tirx.const(0xFFFF0000, "uint32")))
    return tirx.Select(tirx.isnan(x), x, kept)


def typed(operand: Operand) -> Any:
    """What PyTorch's promotion looks at: a number, or a tensor without data."""
    if not isinstance(operand, relax.Expr):
        return operand
    return torch.empty(shape_of(operand), dtype=getattr(torch, dtype_of(operand)), device="meta")


def constant_of(tensor: torch.Tensor) -> relax.Expr:
    """A Relax constant of a copy of the tensor, whose memory the user may go on to change."""
    copy = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if copy.dtype == torch.bfloat16:  # a type that NumPy does not have
        return relax.const(tvm.runtime.from_dlpack(copy.clone()))
    return constant(copy.numpy())
