"""The signature of a `torch.export` program: its inputs and outputs by name, and the structures they stand in."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from subp_contract.errors import UserError
from tvm_sched.frontend import aten
from tvm_sched.signature import SEQUENCES, Signature, Structure, TensorSpec, class_of, joined, named

WHOLE = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
DTYPES = {getattr(torch, name): name for name in ("bool", *WHOLE, "float16", "bfloat16", "float32", "float64")}
WORDS = "booleans, whole numbers, and float16, bfloat16, float32 and float64"
PLAIN_MAPPINGS = (dict, OrderedDict, defaultdict)


def signature_of(program: ExportedProgram) -> Signature:
    """The program's signature. Raises UserError for what is neither a tensor nor a constant, for tensors whose dtype
    NumPy and TVM do not share, and for sizes that are not fixed.
    """
    require_fixed_sizes(program)
    aten.require_computable(program)
    about = program.graph_signature
    inputs = [spec.arg for spec in about.input_specs if spec.kind is InputKind.USER_INPUT]
    outputs = [spec.arg for spec in about.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    taken = _structure(program.call_spec.in_spec, _leaves(inputs, "takes"))
    given = _structure(program.call_spec.out_spec, _leaves(outputs, "returns"))
    parameters = _parameters(program, len(taken.children[0].children))
    in_names = [
        joined(parameters[path[0]] if place == 0 else path[0], *path[1:])
        for (place, *path), leaf in taken.paths()
        if leaf.kind == "tensor"
    ]
    out_names = [
        joined(*path) if path and isinstance(path[0], str) else joined("output", *path)
        for path, leaf in given.paths()
        if leaf.kind == "tensor"
    ]
    if not out_names:
        raise UserError("the network returns no tensor: there is nothing to compile")
    return Signature(
        _specs(program, inputs, in_names, _ranges(program)),
        _specs(program, outputs, out_names, []),
        taken,
        given,
        parameters,
    )


def _specs(
    program: ExportedProgram, arguments: Sequence, names: Sequence[str], ranges: Sequence
) -> tuple[TensorSpec, ...]:
    """The tensors among the arguments, in order."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    tensors = [values[argument.name] for argument in arguments if isinstance(argument, TensorArgument)]
    return named(
        [
            TensorSpec(name, tuple(tensor.shape), _dtype(tensor, name), bounds)
            for tensor, name, bounds in zip(tensors, names, ranges or [None] * len(names), strict=True)
        ]
    )


def renamed(signature: Signature, inputs: Sequence[str], outputs: Sequence[str]) -> Signature:
    """The signature of a network whose positional tensors and results have names of their own."""
    taken = named([replace(spec, name=name) for spec, name in zip(signature.inputs, inputs, strict=True)])
    given = named([replace(spec, name=name) for spec, name in zip(signature.outputs, outputs, strict=True)])
    return replace(signature, inputs=taken, outputs=given, parameters=tuple(inputs))


def of_parts(signature: Signature, parts: int) -> Signature:
    """The signature of the whole batch, of that of one of its parts."""

    def whole(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=(spec.shape[0] * parts, *spec.shape[1:])) for spec in specs)

    if parts == 1:
        return signature
    return replace(signature, inputs=whole(signature.inputs), outputs=whole(signature.outputs))


def require_fixed_sizes(program: ExportedProgram) -> None:
    """Raises UserError where the size of an input is no number: it was left open at export."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        fixed = not isinstance(value, torch.Tensor) or all(isinstance(extent, int) for extent in value.shape)
        if node.op == "placeholder" and not fixed:
            raise UserError(
                f"the network was exported for an input '{node.name}' of shape {list(value.shape)}; this compiler "
                "takes fixed shapes: export it without dynamic shapes"
            )


def _leaves(arguments: Sequence, verb: str) -> Iterator[Structure]:
    """The leaves of a structure, tensors numbered in order."""
    number = 0
    for argument in arguments:
        if isinstance(argument, TensorArgument):
            yield Structure("tensor", number)
            number += 1
        elif isinstance(argument, ConstantArgument):
            yield Structure("constant", argument.value)
        else:
            raise UserError(
                f"the network {verb} '{argument.name}', which is no tensor and no constant "
                f"({type(argument).__name__.removesuffix('Argument')}): make it one"
            )


def _structure(spec: pytree.TreeSpec, leaves: Iterator[Structure]) -> Structure:
    """The structure of a pytree with these leaves."""
    if spec.is_leaf():
        return next(leaves)
    children = tuple(_structure(child, leaves) for child in spec.children())
    if spec.type in SEQUENCES.values():
        return Structure(spec.type.__name__, children=children)
    value = pytree.tree_unflatten([object() for _ in range(spec.num_leaves)], spec)
    if isinstance(value, Mapping) and spec.type in PLAIN_MAPPINGS:
        kind = "ordered_dict" if spec.type is OrderedDict else "dict"
        return Structure(kind, children=children, keys=_checked(list(value)))
    if isinstance(value, tuple):
        return _of_tuple(type(value), children)
    return _of_class(spec, value, children)


def _of_tuple(kind: type, children: tuple[Structure, ...]) -> Structure:
    """A namedtuple, one of PyTorch's results with named fields (`torch.max`), or a tuple under another name, such as
    torch.Size.
    """
    names = tuple(getattr(kind, "_fields", ()) or getattr(kind, "__match_args__", ()))
    if len(names) != len(children):
        return Structure("tuple", children=children)
    return Structure("namedtuple", children=children, keys=names, class_name=_class_name(kind))


def _of_class(spec: pytree.TreeSpec, value: Any, children: tuple[Structure, ...]) -> Structure:
    """Another node that is registered with PyTorch; a dict where its class cannot be called with its fields."""
    node = pytree.SUPPORTED_NODES[spec.type]
    parts = node.flatten_fn(value)[0]
    names = _field_names(node, spec, value, len(children))
    absent = {field.name: None for field in fields(value) if field.init} if is_dataclass(value) else {}
    fixed = {name: None for name in absent if name not in names and getattr(value, name) is None}
    constants = tuple(Structure("constant", each) for each in fixed.values())
    made = Structure("object", None, (*children, *constants), (*names, *fixed), _class_name(type(value)))
    try:
        again = class_of(made)(**dict(zip(names, parts, strict=True)), **fixed)
        rebuilt = type(again) is type(value) and pytree.tree_flatten(again) == pytree.tree_flatten(value)
    except Exception:  # of any kind: the class's own code runs
        rebuilt = False
    return made if rebuilt else Structure("dict", children=children, keys=names)


def _field_names(node: pytree.NodeDef, spec: pytree.TreeSpec, value: Any, count: int) -> tuple:
    """What a registered node's children are called: as its keys or its context say, else by their places."""
    if node.flatten_with_keys_fn:
        keys = [key for key, _ in node.flatten_with_keys_fn(value)[0]]
        return _checked([next(getattr(key, at) for at in ("name", "key", "idx") if hasattr(key, at)) for key in keys])
    names = spec.context if isinstance(spec.context, (list, tuple)) else ()
    return _checked(names) if len(names) == count else tuple(range(count))


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _checked(keys: Sequence) -> tuple:
    """The keys of a dictionary. Raises UserError for those that JSON has not."""
    if wrong := [key for key in keys if not isinstance(key, (str, int))]:
        raise UserError(
            f"the network takes or returns a dictionary with the key {wrong[0]!r}: this compiler takes text and whole "
            "numbers as keys"
        )
    return tuple(keys)


def _parameters(program: ExportedProgram, count: int) -> tuple[str, ...]:
    """Names of the positional arguments, as `forward` has them."""
    called = program.module_call_graph[0].signature if program.module_call_graph else None
    names = (called and called.forward_arg_names) or []
    return tuple(names[:count]) if len(names) >= count else tuple(f"input_{place}" for place in range(count))


def _ranges(program: ExportedProgram) -> list[tuple[int, int] | None]:
    """(least, largest) value of each example tensor of whole numbers or booleans; nothing where there is no example."""
    tensors = [leaf for leaf in pytree.tree_leaves(program.example_inputs) if isinstance(leaf, torch.Tensor)]
    return [
        (int(tensor.numpy().min()), int(tensor.numpy().max()))
        if tensor.numel() and (DTYPES.get(tensor.dtype) in (*WHOLE, "bool"))
        else None
        for tensor in tensors
    ]


def _dtype(tensor: torch.Tensor, name: str) -> str:
    if tensor.dtype not in DTYPES:
        raise UserError(f"'{name}' is {str(tensor.dtype).removeprefix('torch.')}; this compiler takes {WORDS}")
    return DTYPES[tensor.dtype]
