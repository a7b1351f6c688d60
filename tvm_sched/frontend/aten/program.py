"""The walk from a program's graph to a Relax module."""

import operator as python_operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves
from tvm import IRModule, relax

from subp_contract.errors import UserError, first_line
from tvm_sched.frontend.aten.converter import CONVERTERS, Builder, metas, name_of_dtype
from tvm_sched.frontend.aten.source_place import module_of, operator, place
from tvm_sched.passes.graph.relax_tools import dtype_of, shape_of

# What may stand between a parameter and the operator it weighs.
DEQUANTISED = {"dequantize_per_tensor", "dequantize_per_channel"}
REARRANGED = {"permute", "transpose", "t", "expand", "view", *DEQUANTISED}
WEIGHT_AT = {"convolution": 1, "mm": 1, "bmm": 1, "addmm": 2, "baddbmm": 2}  # operator -> its weight's argument
QUANTISED, FROZEN = "_quantized", "_frozen_param"  # ends of ONNX Runtime's names of weights, beginnings of torchao's
FOLDED = 1 << 24  # numbers that a constant may have, unless what it is computed from has as many
ASSERTIONS = ("_assert", "sym_constrain")


def to_relax(core: ExportedProgram, results: Sequence[fx.Node] | None = None) -> IRModule:
    """A module whose 'main' takes the tensors among the user's inputs and returns the user's tensors, one alone as it
    is, several as a tuple; with `results` the values of those nodes instead.

    core: a program in operators that have converters (`decompositions.decomposed`)
    Raises UserError with operator and place in the source where one has none, or where what it computes cannot be
    compiled: random numbers, complex numbers, sizes that depend on values.
    """
    return _Walk(core).module(results)


class _Walk:
    """The state of one import."""

    def __init__(self, core: ExportedProgram):
        self.core = core
        self.builder = Builder(relax.BlockBuilder())
        # Node -> a tensor that is known, an expression, a number, or a sequence of these.
        self.values: dict[fx.Node, Any] = {}

    def module(self, results: Sequence[fx.Node] | None) -> IRModule:
        block = self.builder.relax
        params = self.bind_inputs()
        with block.function("main", params):
            with block.dataflow():
                for node in self.core.graph.nodes:
                    if node.op in ("call_function", "get_attr"):
                        self.values[node] = self.convert(node)
                wanted = user_outputs(self.core) if results is None else list(results)
                made = [self.output(node) for node in wanted]
                returned = block.emit_output(made[0] if len(made) == 1 else relax.Tuple(made))
            block.emit_func_output(returned)
        return block.finalize()

    def bind_inputs(self) -> list[relax.Var]:
        """Gives each placeholder its value; returns the variables of those that are the user's tensors."""
        params = []
        stored = stored_values(self.core)
        nodes = {node.name: node for node in self.core.graph.nodes if node.op == "placeholder"}
        for spec in self.core.graph_signature.input_specs:
            node = nodes[spec.arg.name]
            if spec.kind != InputKind.USER_INPUT:
                self.values[node] = stored[spec.target]
                continue
            meta = node.meta.get("val")
            if not isinstance(meta, torch.Tensor):
                self.values[node] = getattr(spec.arg, "value", meta)
                continue
            require_real(node, meta)
            var = relax.Var(node.name, relax.TensorType(list(meta.shape), name_of_dtype(meta.dtype)))
            self.values[node] = var
            params.append(var)
        return params

    def output(self, node: fx.Node) -> relax.Expr:
        """What a node that the user gets is worth."""
        value = self.values[node]
        if value is None:
            raise UserError(f"{place(node)} gives a result that is made for training, and is returned: {HINT}")
        return self.builder.constant(value) if isinstance(value, torch.Tensor) else value

    def convert(self, node: fx.Node) -> Any:
        """The node's value. Raises UserError where it cannot be computed."""
        if node.op == "get_attr":
            return None  # a part of the network, for the operator that follows
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UserError(f"{place(node)} runs a part of the network by itself, which this compiler does not: {HINT}")
        args = fx.map_arg(node.args, lambda each: self.values[each])
        kwargs = fx.map_arg(node.kwargs, lambda each: self.values[each])
        if node.target is python_operator.getitem:
            return args[0][args[1]]
        if not hasattr(node.target, "_schema"):  # arithmetic of sizes
            return node.target(*args, **kwargs)
        if operator(node).startswith(ASSERTIONS):
            return None
        if isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise UserError(f"{place(node)} takes a number out of a tensor, which depends on values: {HINT}")
        tensors = [meta for meta in metas(node.meta.get("val")) if isinstance(meta, torch.Tensor)]
        for meta in tensors:
            require_real(node, meta)
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise UserError(
                f"{place(node)} draws random numbers, and a compiled network gives the same for the same input: leave "
                "it out in eval mode"
            )
        if self.foldable(node, args, kwargs):
            with torch.no_grad():
                return node.target(*args, **kwargs)
        made = self.call(node, args, kwargs)
        for expr, meta in zip(metas(made), tensors, strict=False):
            require_equal(node, expr, meta)
        return made

    def foldable(self, node: fx.Node, args: Any, kwargs: Any) -> bool:
        """Whether PyTorch can compute the node's value here and now: from constants, to a tensor of bounded size. A
        weight of 8 bits stays one, for kernels that multiply such.
        """
        inputs = tree_leaves((args, kwargs))
        if any(isinstance(each, relax.Expr) for each in inputs):
            return False
        if operator(node) in DEQUANTISED and args[0].element_size() == 1 and args[0].ndim > 1:
            return False
        sizes = [each.numel() for each in inputs if isinstance(each, torch.Tensor)]
        made = sum(meta.numel() for meta in metas(node.meta.get("val")) if isinstance(meta, torch.Tensor))
        return made <= max(FOLDED, *sizes, 0)

    def call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """The converter's result for the node."""
        self.builder.node, self.builder.layer = node, self.layer_name(node)
        convert = converter_of(node)
        arguments = [self.operand(each) for each in complete(node.target._schema, args, kwargs)]
        try:
            return convert(self.builder, *arguments)
        except UserError:
            raise
        except NotImplementedError as error:
            raise UserError(f"{place(node)}: {error}; {HINT}") from error
        except Exception as error:  # of any kind: TVM's own type inference has many ways to stop
            raise UserError(f"{place(node)} cannot be imported: {first_line(error)}; {HINT}") from error

    def operand(self, value: Any) -> Any:
        """What a converter takes: constants as Relax has them, in sequences too."""
        if isinstance(value, torch.Tensor):
            return self.builder.constant(value)
        return [self.operand(each) for each in value] if isinstance(value, (list, tuple)) else value

    def layer_name(self, node: fx.Node) -> str | None:
        at = WEIGHT_AT.get(operator(node))
        return None if at is None else name_of(source(node.args[at]), node, self.core)


HINT = "take it out of what is compiled, or compute it another way"


def converter_of(node: fx.Node) -> Callable[..., Any]:
    """The converter of a node's operator. Raises UserError where there is none."""
    name = f"{operator(node)}.{node.target._overloadname or 'default'}"
    convert = CONVERTERS.get(name) or CONVERTERS.get(operator(node))
    if convert is None:
        raise UserError(f"{place(node)} has no converter in this compiler: {HINT}")
    return convert


def complete(schema: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """All arguments of a schema, in its order, defaults where none is given."""
    given = list(args)
    for argument in schema.arguments[len(args) :]:
        given.append(kwargs.get(argument.name, argument.default_value))
    return given


def require_real(node: fx.Node, meta: torch.Tensor) -> None:
    """Raises UserError for what no compiled code here computes with."""
    if meta.dtype.is_complex:
        raise UserError(f"{place(node)} gives complex numbers, which this compiler does not compute with: {HINT}")
    if meta.layout != torch.strided:
        raise UserError(f"{place(node)} gives a tensor of layout {meta.layout}; this compiler takes dense ones")
    if not all(isinstance(extent, int) for extent in meta.shape):
        raise UserError(
            f"{place(node)} gives a tensor of shape {list(meta.shape)}, which depends on values or is symbolic; this "
            "compiler takes fixed shapes"
        )


def require_computable(program: ExportedProgram) -> None:
    """Raises UserError where an operator gives complex numbers, a sparse tensor, or a size that depends on values."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            for meta in metas(node.meta.get("val")):
                if isinstance(meta, torch.Tensor):
                    require_real(node, meta)


def require_equal(node: fx.Node, expr: Any, meta: torch.Tensor) -> None:
    """Raises UserError unless the expression has the shape and dtype that PyTorch gives."""
    if expr is None:
        return  # a result that nobody reads
    made, wanted = (list(shape_of(expr)), dtype_of(expr)), (list(meta.shape), name_of_dtype(meta.dtype))
    if made != wanted:
        raise UserError(
            f"{place(node)} is imported as {made[0]} of {made[1]} where PyTorch gives {wanted[0]} of {wanted[1]}, a "
            f"fault of this compiler: {HINT}"
        )


def stored_values(core: ExportedProgram) -> dict[str | None, Any]:
    """What inputs that are not the user's stand for, by their targets; a token orders checks that raise: it has neither
    target nor value.
    """
    return {None: None, **core.constants, **core.state_dict}


def user_outputs(core: ExportedProgram) -> list[fx.Node]:
    """The nodes of the tensors that the user gets, in order."""
    returned = {node.name: node for node in core.graph.nodes}
    specs = core.graph_signature.output_specs
    names = [getattr(spec.arg, "name", None) for spec in specs if spec.kind == OutputKind.USER_OUTPUT]
    nodes = [returned[name] for name in names if name in returned]
    return [node for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]


def source(node: fx.Node) -> fx.Node:
    """Where a weight comes from: a parameter, or what computes it."""
    while operator(node) in REARRANGED:
        node = node.all_input_nodes[0]
    return node


def name_of(weight: fx.Node, node: fx.Node, core: ExportedProgram) -> str:
    """The weight's name without 'weight', or of one that is computed the name of the module it is used in."""
    signature = core.graph_signature
    name = signature.inputs_to_parameters.get(weight.name) or signature.inputs_to_buffers.get(weight.name)
    plain = (name or "").removesuffix(QUANTISED)
    if plain != name or plain.startswith(FROZEN):  # a quantiser's name, which may tell nothing
        return plain.removesuffix(".weight") if plain.endswith(".weight") else module_of(node) or plain or node.name
    if name:
        return name.removesuffix("weight").rstrip("._") or name
    return module_of(node) or node.name
