"""An ONNX file as a checked model: whole, weights of other files read in, its nodes in an order that can be run."""

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import external_data_helper
from onnx.checker import ValidationError

from subp_contract.errors import UserError
from subp_contract.files import require_file
from tvm_sched.frontend.onnx.functions import DEFAULT_DOMAINS
from tvm_sched.frontend.onnx.refused import QUANTISED


def read(path: Path) -> onnx.ModelProto:
    """The model in a file, with its external data. Raises UserError where the file is not there, cut off or no ONNX
    file, or where its external data is not there or too short.
    """
    require_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's reader raises kinds of its own
        raise UserError(f"{path} is truncated or not an ONNX file") from error
    if not model.HasField("graph") or not model.ir_version:
        raise UserError(f"{path} is truncated or not an ONNX file")
    for tensor in external_data_helper._get_all_tensors(model):
        if external_data_helper.uses_external_data(tensor):
            _load_external(tensor, path)
    return model


def _load_external(tensor: onnx.TensorProto, path: Path) -> None:
    about = {entry.key: entry.value for entry in tensor.external_data}
    file = path.parent / about.get("location", "")
    weights = f"weights '{tensor.name}' of {path} are in the file {file}"
    if not file.is_file():
        raise UserError(f"{weights}, which is not there: put it beside the ONNX file")
    try:
        end = int(about.get("offset", 0)) + int(about.get("length", 0))
    except ValueError:
        raise UserError(f"{weights}, at a place that is no number: export the network again") from None
    if end > file.stat().st_size:
        raise UserError(f"{weights}, which is too short ({file.stat().st_size} bytes, not {end}): it was cut off")
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    except Exception as error:  # a path that leaves the folder, or numbers that are none
        raise UserError(f"{weights}, which cannot be read: {error}") from error
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of the model with its nodes sorted. Raises UserError for a cycle, a value that nothing makes, an operator
    of another domain, and for whatever ONNX's checker finds.
    """
    known = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if node.domain not in DEFAULT_DOMAINS and (node.domain, node.op_type) not in known:
            if node.op_type.startswith("QLinear"):
                raise UserError(f"operator {node.op_type} ({described(node)}) {QUANTISED}")
            raise UserError(
                f"operator {node.op_type} ({described(node)}) is of the domain '{node.domain}', which this compiler "
                "does not know: export the network with operators of ONNX itself"
            )
    nodes = in_order(model.graph)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):  # which the checker wants, and nobody needs
            value.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
    try:
        if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
            onnx.checker.check_model(model)
    except ValidationError as error:
        if "deprecated" in str(error):  # such as GroupNormalization before opset 21: well-defined all the same
            return model
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise UserError(f"{name} is not valid ONNX: {line}") from error
    except UnicodeDecodeError as error:  # in the checker's own sentence
        raise UserError(f"{name} is not valid ONNX: it has names that are no text") from error
    return model


def opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Domain -> version; ONNX's own is ''."""
    return {"" if each.domain in DEFAULT_DOMAINS else each.domain: each.version for each in imports}


def described(node: onnx.NodeProto) -> str:
    """A node by its name, or where it has none by what it makes."""
    return f"node '{node_name(node)}'"


def node_name(node: onnx.NodeProto) -> str:
    """The node's name, or that of its first result."""
    name = node.name or next((output for output in node.output if output), node.op_type)
    return name if isinstance(name, str) else name.decode(errors="replace")  # bytes, where the file is damaged


def in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes, each behind those whose results it takes. Raises UserError for a cycle, or a value that nothing makes."""
    available = {value.name for value in (*graph.input, *graph.initializer)}
    available |= {value.values.name for value in graph.sparse_initializer}
    makers = {output: node for node in graph.node for output in node.output if output}
    placed: list[onnx.NodeProto] = []
    waiting = list(graph.node)
    while waiting:
        later = []
        for node in waiting:
            missing = [name for name in taken(node) if name and name not in available]
            for name in missing:
                if name not in makers:
                    raise UserError(f"operator {node.op_type} ({described(node)}) takes '{name}', which nothing makes")
            if missing:
                later.append(node)
            else:
                placed.append(node)
                available.update(node.output)
        if len(later) == len(waiting):
            names = ", ".join(f"{node.op_type} ({described(node)})" for node in _cycle(later, makers, available))
            raise UserError(f"the graph has a cycle, through {names}: no order of its nodes can be run")
        waiting = later
    return placed


def taken(node: onnx.NodeProto) -> set[str]:
    """The values that a node takes, those of its subgraphs from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inside = {value.name for value in (*graph.input, *graph.initializer)}
            inside |= {output for each in graph.node for output in each.output}
            names |= {name for each in graph.node for name in taken(each)} - inside
    return names


def _cycle(
    waiting: list[onnx.NodeProto], makers: dict[str, onnx.NodeProto], available: set[str]
) -> list[onnx.NodeProto]:
    """The nodes of one cycle among those that wait for one another."""
    path: list[onnx.NodeProto] = []
    node = waiting[0]
    while not any(node is each for each in path):
        path.append(node)
        node = makers[next(name for name in sorted(taken(node)) if name and name not in available)]
    start = next(number for number, each in enumerate(path) if each is node)
    return path[start:]
