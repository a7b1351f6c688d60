"""`load`: from an ONNX file to an nn.Module of fixed shapes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from subp_contract.documents import shown
from subp_contract.errors import UserError, require
from tvm_sched.frontend.onnx import files
from tvm_sched.frontend.onnx.conversion import Conversion, Scope, initialisers
from tvm_sched.frontend.onnx.network import Input, OnnxNetwork
from tvm_sched.frontend.onnx.tensors import torch_dtype

LARGEST = 2**34  # numbers of an input


def load(
    source: str | Path | onnx.ModelProto,
    batch: int | None = None,
    size: int | None = None,
    shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None,
) -> OnnxNetwork:
    """The network of an ONNX file, or of a model in memory.

    batch:   the extent of first axes that the file leaves open, by default 1
    size:    that of the last two axes of images `[N, C, H, W]`, where it leaves them open
    shapes:  input's name -> its whole shape, where the file leaves more open; or the shapes of all, in order

    Raises UserError where the file is damaged, or the network cannot be taken; the sentence names node and operator.
    """
    if isinstance(source, onnx.ModelProto):
        kept: onnx.ModelProto | Path = source
        name, model = "the model", onnx.ModelProto()
        model.CopyFrom(source)
    else:
        kept, name, model = Path(source), str(source), files.read(Path(source))
    model = files.checked(model, name)
    graph = model.graph
    known = initialisers(graph)
    values = [value for value in graph.input if value.name not in known]
    given = _by_name(shapes or {}, [value.name for value in values], name)
    inputs = [_input(value, name, batch, size, given.get(value.name)) for value in values]
    conversion = Conversion({(each.domain, each.name): each for each in model.functions})
    scope: Scope = dict(known)
    scope.update({each.name: conversion.computed(each.shape, each.dtype) for each in inputs})
    conversion.run(graph.node, scope, files.opsets(model.opset_import))
    if missing := [each.name for each in graph.output if each.name not in scope]:
        raise UserError(f"nothing makes the output '{missing[0]}' of {name}")
    outputs = [(each.name, scope[each.name]) for each in graph.output]
    return OnnxNetwork(kept, inputs, conversion.calls, outputs)


def _by_name(
    shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]], inputs: list[str], name: str
) -> Mapping[str, Sequence[int]]:
    """Input's name -> the shape that is given for it."""
    if not isinstance(shapes, Mapping):
        if len(shapes) != len(inputs):
            raise UserError(f"{name} has {len(inputs)} inputs ({', '.join(inputs)}), and {len(shapes)} are given")
        return dict(zip(inputs, shapes, strict=True))
    if unknown := sorted(set(shapes) - set(inputs)):
        raise UserError(f"{name} has no input '{unknown[0]}'; its inputs are {', '.join(inputs)}")
    return shapes


def _input(
    value: onnx.ValueInfoProto, name: str, batch: int | None, size: int | None, given: Sequence[int] | None
) -> Input:
    """An input with its shape fixed."""
    if not value.type.HasField("tensor_type"):
        raise UserError(
            f"input '{value.name}' of {name} is a sequence or an optional value; this compiler takes tensors"
        )
    kind = value.type.tensor_type
    try:
        dtype = torch_dtype(kind.elem_type)
    except UserError as error:
        raise UserError(f"input '{value.name}' of {name} {error}") from error
    if not kind.HasField("shape"):
        if given is None:
            raise UserError(f"{name} leaves the shape of input '{value.name}' open: give it in `shapes`")
        return Input(value.name, tuple(given), dtype)
    dimensions = kind.shape.dim
    if given is not None and len(given) != len(dimensions):
        raise UserError(f"input '{value.name}' of {name} has {len(dimensions)} axes, and the shape given {list(given)}")
    shape = []
    for axis, dimension in enumerate(dimensions):
        fixed = dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value >= 0 else None
        wanted = given[axis] if given is not None else None
        if wanted is None and axis == 0:
            wanted = batch
        if wanted is None and fixed is None and axis == 0:
            wanted = 1
        if wanted is None and fixed is None and axis >= 2 and len(dimensions) == 4:
            wanted = size
        if fixed is not None and wanted not in (None, fixed):
            raise UserError(
                f"input '{value.name}' of {name} has {fixed} along axis {axis}, not {wanted}: export the file with "
                "that axis open"
            )
        extent = fixed if fixed is not None else wanted
        if extent is None:
            raise UserError(
                f"{name} leaves the extent '{dimension.dim_param or '?'}' of input '{value.name}' (axis {axis}) open: "
                "give the input's whole shape"
            )
        shape.append(extent)
    require(math.prod(shape) <= LARGEST, f"input '{shown(value.name)}' of {name} is too large: {shape}")
    return Input(value.name, tuple(shape), dtype)
