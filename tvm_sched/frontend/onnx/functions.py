"""Operators that are defined by others: a file's own functions, and those whose schema has a body."""

from collections.abc import Sequence

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

DEFAULT_DOMAINS = ("", "ai.onnx")


def of_schema(node: NodeProto, version: int, types: Sequence[onnx.TypeProto]) -> FunctionProto | None:
    """The body of an operator of ONNX at this version, if its schema has one for inputs of these types."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    body = FunctionProto()
    if versions := [each for each in schema.function_opset_versions if each <= version]:
        body.ParseFromString(schema.get_function_with_opset_version(max(versions)))
    elif versions := [each for each in schema.context_dependent_function_opset_versions if each <= version]:
        given = NodeProto()
        given.CopyFrom(node)
        given.domain = ""
        types_bytes = [each.SerializeToString() for each in types]
        text = schema.get_context_dependent_function_with_opset_version(
            max(versions), given.SerializeToString(), types_bytes
        )
        body.ParseFromString(text)
    else:
        return None
    named = {attribute.name for attribute in body.attribute_proto}
    for name, attribute in schema.attributes.items():  # defaults, to which the body may refer
        if name not in named and attribute.default_value.type != AttributeProto.UNDEFINED:
            body.attribute_proto.append(attribute.default_value)
    return body if body.node else None


def body_nodes(function: FunctionProto, node: NodeProto) -> list[NodeProto]:
    """The nodes of a function's body, attributes that refer to its caller's filled in, or left out with them."""
    given = {attribute.name: attribute for attribute in function.attribute_proto}
    given.update({attribute.name: attribute for attribute in node.attribute})
    return [_filled(each, given) for each in function.node]


def _filled(node: NodeProto, given: dict[str, AttributeProto]) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy = result.attribute.add()
            copy.CopyFrom(attribute)
            if attribute.type == AttributeProto.GRAPH:
                nodes = [_filled(each, given) for each in attribute.g.node]
                del copy.g.node[:]
                copy.g.node.extend(nodes)
        elif attribute.ref_attr_name in given:
            copy = result.attribute.add()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
    return result
