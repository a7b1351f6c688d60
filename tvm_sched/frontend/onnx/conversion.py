"""From a model's graph to calls of PyTorch functions: each node is looked at once, in order.

What is known when the file is loaded (weights, constants, shapes and what is computed of them) is computed there and
then. Of everything else the shape and type are, with fake tensors, so that a node which cannot be is told by its name.
"""

import logging
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import onnx
import torch
from onnx import NodeProto, helper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from subp_contract.errors import UserError
from tvm_sched.frontend.onnx import files, functions, quantisation  # noqa: F401, enters its operators
from tvm_sched.frontend.onnx.layers import LAYERS, layer_name
from tvm_sched.frontend.onnx.operators import OPERATORS, Node, Operator
from tvm_sched.frontend.onnx.refused import REFUSED, SUBGRAPH, VALUES
from tvm_sched.frontend.onnx.tensors import ONNX_DTYPES, dense_tensor_of, tensor_of

DEEPEST = 20  # functions within functions


@dataclass(frozen=True, eq=False)
class Known:
    """A value that is known when the file is loaded. `weight`: the initialiser that it comes from, or its own name."""

    tensor: Tensor
    name: str
    weight: str


@dataclass(frozen=True, eq=False)
class Computed:
    """A value of each call: its number, and a tensor of its shape and type."""

    number: int
    fake: FakeTensor


@dataclass(frozen=True)
class Fixed:
    """An input that a function gets as Python numbers, or None."""

    value: Any


@dataclass(frozen=True)
class Call:
    """A node at each call of the network: `function(*inputs)` gives the results of these numbers."""

    name: str
    function: Callable
    inputs: tuple[Known | Computed | Fixed, ...]
    results: tuple[int, ...]
    node: str  # the operator and the node, in words
    values: tuple[str, ...]  # what the file calls the results


Value = Known | Computed
Scope = MutableMapping[str, Value]


@dataclass
class Conversion:
    """Calls as they are made of nodes."""

    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    calls: list[Call] = field(default_factory=list)
    mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))
    count: int = 0

    def computed(self, shape: Sequence[int], dtype: torch.dtype) -> Computed:
        """A new value of each call."""
        with self.mode:
            return self.numbered(torch.empty(tuple(shape), dtype=dtype))

    def numbered(self, fake: Any) -> Computed:
        """A new value like that tensor."""
        self.count += 1
        return Computed(self.count - 1, fake)

    def run(
        self, nodes: Sequence[NodeProto], scope: Scope, versions: Mapping[str, int], within: tuple[str, ...] = ()
    ) -> None:
        """Enters the results of nodes into the scope. `within`: the functions that the nodes are of, from outside."""
        for proto in nodes:
            name = "/".join((*within, files.node_name(proto)))
            try:
                values = [scope[each] if each else None for each in proto.input]
                made = self.results(proto, name, values, scope, versions, within)
            except UserError as error:
                if isinstance(error, Named):
                    raise
                raise Named(f"operator {proto.op_type} (node '{name}') {error}") from error
            scope.update({each: value for each, value in zip(proto.output, made, strict=False) if each and value})

    def results(
        self,
        proto: NodeProto,
        name: str,
        values: list[Value | None],
        scope: Scope,
        versions: Mapping[str, int],
        within: tuple[str, ...],
    ) -> Sequence[Value | None]:
        """What a node makes. Raises UserError with the end of a sentence about it."""
        op = proto.op_type
        if function := self.functions.get((proto.domain, op)):
            return self.call(function, proto, values, (*within, files.node_name(proto)))
        if proto.domain not in functions.DEFAULT_DOMAINS:
            raise UserError(f"is of the domain '{proto.domain}', which this compiler does not know")
        if op == "If":
            return self.branch(proto, values[0], scope, versions, within)
        version = versions.get("", 1)
        if op in REFUSED:
            raise UserError(REFUSED[op])
        if op == "Constant":
            return [Known(constant(proto), proto.output[0], proto.output[0])]
        if op in OPERATORS:
            return self.operator(OPERATORS[op], node_of(proto, name, version), values, proto.output)
        types = [
            helper.make_tensor_type_proto(ONNX_DTYPES[like(v).dtype], like(v).shape) if v else onnx.TypeProto()
            for v in values
        ]
        if function := functions.of_schema(proto, version, types):
            return self.call(function, proto, values, (*within, files.node_name(proto)))
        raise UserError(f"(opset {version}) is not known to this compiler")

    def call(
        self, function: onnx.FunctionProto, proto: NodeProto, values: list[Value | None], within: tuple[str, ...]
    ) -> list[Value | None]:
        """A function's results: its body in a scope of its own."""
        if len(within) > DEEPEST:
            raise UserError("calls functions that call one another without end")
        scope = {name: value for name, value in zip(function.input, values, strict=False) if value}
        nodes = functions.body_nodes(function, proto)
        for node in nodes:  # inputs that the caller leaves out are left out in the body
            for number, each in enumerate(node.input):
                if each in function.input and each not in scope:
                    node.input[number] = ""
        self.run(nodes, scope, files.opsets(function.opset_import), within)
        return [scope.get(name) for name in function.output]

    def branch(
        self,
        proto: NodeProto,
        condition: Value | None,
        scope: Scope,
        versions: Mapping[str, int],
        within: tuple[str, ...],
    ) -> list[Value | None]:
        """What an If gives, of whose condition the value is known."""
        if not isinstance(condition, Known):
            raise UserError(SUBGRAPH)
        wanted = "then_branch" if condition.tensor.item() else "else_branch"
        graph = next(attribute.g for attribute in proto.attribute if attribute.name == wanted)
        inside: Scope = ChainMap(dict(initialisers(graph)), scope)
        self.run(graph.node, inside, versions, within)
        return [inside[output.name] for output in graph.output]

    def operator(
        self, operator: Operator, node: Node, values: Sequence[Value | None], names: Sequence[str]
    ) -> Sequence[Value | None]:
        """What an operator of the table makes: computed at once where its inputs are known, else a call."""
        inputs = [self.input(operator, node, number, value) for number, value in enumerate(values)]
        function: Callable = partial(operator.convert, node)
        known = not any(isinstance(each, Computed) for each in inputs)
        if known and operator.kept:
            known = not operator.kept([each.tensor for each in inputs if isinstance(each, Known)])
        if known or operator.of_shape:
            made = tensors(attempt(function, [given(each, real=True) for each in inputs]))
            source = next((each.weight for each in values if isinstance(each, Known) and each.tensor.ndim > 1), None)
            return [
                None if each is None else Known(each, name, source or name)
                for each, name in zip(made, names, strict=False)
            ]
        call_name = node.name
        if layer := self.layer(node, values):
            function, inputs, call_name = layer
        with self.mode:
            made = tensors(attempt(function, [given(each, real=False) for each in inputs]))
        results = [None if each is None else self.numbered(each) for each in made[: len(names)]]
        numbers = tuple(each.number if each else -1 for each in results)
        told = f"operator {node.op} (node '{node.name}')"
        self.calls.append(Call(call_name, function, tuple(inputs), numbers, told, tuple(names)))
        return results

    def input(self, operator: Operator, node: Node, number: int, value: Value | None) -> Known | Computed | Fixed:
        """An input as the operator wants it."""
        if value is None:
            return Fixed(None)
        if isinstance(value, Known) and number in operator.fixed | operator.folded:
            return Fixed(value.tensor.tolist())
        if number in operator.fixed:
            name = input_name(node, number)
            raise UserError(f"has an input '{name}' that depends on the network's inputs: {VALUES_OF}")
        return value

    def layer(
        self, node: Node, values: Sequence[Value | None]
    ) -> tuple[nn.Module, list[Known | Computed | Fixed], str] | None:
        """(a layer of PyTorch's for the node, its inputs, its name), where its weights are known."""
        if node.op not in LAYERS or not isinstance(values[0], Computed):
            return None
        make, kept = LAYERS[node.op]
        if any(isinstance(value, Computed) for number, value in enumerate(values) if number not in kept):
            return None
        weights = [None if number in kept or value is None else value.tensor for number, value in enumerate(values)]  # type: ignore[union-attr]
        weights += [None] * (3 - len(weights))
        layer = make(node, values[0].fake.shape, weights[: 2 if node.op == "MatMul" else None])
        if layer is None:
            return None
        last = max((number for number in kept if number < len(values) and values[number]), default=0)
        used = [values[number] if number < len(values) else None for number in kept if number <= last]
        name = layer_name(values[1].weight if isinstance(values[1], Known) else "", node.name)
        return layer, [Fixed(None) if each is None else each for each in used], name


VALUES_OF = "this compiler takes networks of fixed shapes"


class Named(UserError):
    """A sentence that names its node already."""


def like(value: Value) -> Tensor:
    """A tensor of the value's shape and type."""
    return value.tensor if isinstance(value, Known) else value.fake


def given(value: Known | Computed | Fixed, real: bool) -> Any:
    """What a function gets for an input when the file is loaded."""
    if isinstance(value, Fixed):
        return value.value
    if isinstance(value, Known):
        return value.tensor
    return value.fake


@contextmanager
def unlogged() -> Iterator[None]:
    """Without the traceback that PyTorch logs besides raising where shapes do not fit."""
    logger = logging.getLogger(torch._subclasses.fake_tensor.__name__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def attempt(function: Callable, inputs: list) -> Any:
    """The function's result. Raises UserError with the reason where there is none."""
    try:
        with torch.no_grad(), unlogged():
            return function(*inputs)
    except UserError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(VALUES) from error
    except Exception as error:  # of any kind: attributes and shapes are the file's
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        shapes = ", ".join(str(list(each.shape)) for each in inputs if isinstance(each, Tensor))
        raise UserError(f"cannot be computed on inputs of {shapes or 'no tensor'}: {reason}") from error


def tensors(made: Any) -> tuple[Tensor | None, ...]:
    """A function's results as a tuple."""
    return tuple(made) if isinstance(made, tuple | list) else (made,)


def input_name(node: Node, number: int) -> str:
    """What ONNX calls an operator's input."""
    inputs = onnx.defs.get_schema(node.op, node.version, "").inputs
    return inputs[min(number, len(inputs) - 1)].name


def node_of(proto: NodeProto, name: str, version: int) -> Node:
    """The node with its attributes, the schema's defaults included."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, "")
    except onnx.defs.SchemaError as error:
        raise UserError(f"is not of opset {version}") from error
    attributes = {key: attribute_value(each.default_value) for key, each in schema.attributes.items()}
    attributes |= {each.name: attribute_value(each) for each in proto.attribute}
    wanted = max((number for number, each in enumerate(proto.output, 1) if each), default=1)
    return Node(proto.op_type, name, version, attributes, wanted)


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute as Python numbers, strings or a tensor; None where it has no value."""
    if attribute.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return tensor_of(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [each.decode(errors="replace") for each in value]
    return value


def constant(proto: NodeProto) -> Tensor:
    """The tensor of a Constant."""
    attribute = proto.attribute[0]
    if attribute.name == "sparse_value":
        return dense_tensor_of(attribute.sparse_tensor)
    value = attribute_value(attribute)
    if isinstance(value, Tensor):
        return value
    kinds = {
        "value_float": torch.float32,
        "value_floats": torch.float32,
        "value_int": torch.int64,
        "value_ints": torch.int64,
    }
    if attribute.name not in kinds:
        raise UserError("holds strings; this compiler takes numbers")
    return torch.tensor(value, dtype=kinds[attribute.name])


def initialisers(graph: onnx.GraphProto) -> dict[str, Known]:
    """The tensors that a graph brings along, by name."""
    found = {each.name: tensor_of(each) for each in graph.initializer}
    found |= {each.values.name: dense_tensor_of(each) for each in graph.sparse_initializer}
    return {name: Known(tensor, name, name) for name, tensor in found.items()}
