"""The first operator whose value departs from PyTorch's, by compiling the network again with intermediate values as its
results. Only a network that has failed its check comes here.
"""

from collections.abc import Sequence

import numpy as np
from torch import fx
from torch.export import ExportedProgram

from tvm_sched.deploy.manifest import RELATIVE
from tvm_sched.frontend.aten.source_place import operator, place
from tvm_sched.frontend.torch_export import Imported, to_array
from tvm_sched.pipeline import Compilation
from tvm_sched.verification import ties
from tvm_sched.verification.cases import Finding
from tvm_sched.verification.comparison import Agreement, compare
from tvm_sched.verification.core import Values, compiled_values, output_node, tensor_nodes, values
from tvm_sched.verification.host import for_here
from tvm_sched.verification.quantised import allowance
from tvm_sched.verification.reference import own_tensor

Departure = tuple[fx.Node, Agreement]


def sentence(finding: Finding, compilation: Compilation) -> str:
    """What is wrong, where it begins, and what to do."""
    case, imported = finding.case, finding.case.imported
    name = imported.signature.outputs[finding.output].name
    if compilation.precision.within is not None:
        return (
            f"in {compilation.precision.word} the network's output '{name}' {finding.agreement.words}: it needs finer "
            "numbers, so compile it in float32"
        )
    departure = first_departure(imported, for_here(compilation), case.first_part, finding.output)
    if departure is not None:
        node, agreement = departure
        where = f"the first to depart is {place(node)}, whose value {agreement.words}"
    elif told := case.reference.first_departure(case.inputs):
        where = f"the first to depart is {told}, whose value is wrong in PyTorch already"
    else:
        where = "no operator departs where it is compiled without those that follow"
    return (
        f"the compiled network is wrong: its output '{name}' {finding.agreement.words}; {where}: a fault of this "
        "compiler, please report it (check=False, or --no-check, compiles all the same)"
    )


def first_departure(
    imported: Imported, compilation: Compilation, inputs: Sequence[np.ndarray], output: int
) -> Departure | None:
    """The first of the operators before that output of the program whose compiled value departs for these inputs, and
    how; None where nothing is found.

    All values are computed by one build first. Where none departs in it, fusion plays a part: then builds with one
    result each find it by bisection.
    """
    try:
        expected = values(imported.core, inputs)
        nodes = ancestors(output_node(imported.core, output), tensor_nodes(imported.core))
        made = compiled_values(imported, compilation, nodes, inputs)
        for node, value in zip(nodes, made, strict=True):
            agreement = agreement_of(node, value, expected, imported.core, inputs, compilation.weights)
            if not agreement.holds:
                return named(node), agreement
        return _by_bisection(imported, compilation, inputs, nodes, expected)
    except Exception:  # of any kind: that the network departs is told in any case, and is what matters
        return None


def _by_bisection(
    imported: Imported,
    compilation: Compilation,
    inputs: Sequence[np.ndarray],
    nodes: Sequence[fx.Node],
    expected: Values,
) -> Departure | None:
    """Of the nodes, each before those that need it, the first that departs as the only result of a build."""
    found, low, high = None, 0, len(nodes) - 1
    while low <= high:
        middle = high if found is None else (low + high) // 2
        (value,) = compiled_values(imported, compilation, nodes[middle : middle + 1], inputs)
        agreement = agreement_of(nodes[middle], value, expected, imported.core, inputs, compilation.weights)
        if not agreement.holds:
            found, high = (named(nodes[middle]), agreement), middle - 1
        elif found is None:
            return None  # not even the last one
        else:
            low = middle + 1
    return found


def named(node: fx.Node) -> fx.Node:
    """The operator that computes a node's value: of one of several results the one that gives them."""
    return node if operator(node) else next(iter(node.all_input_nodes), node)


def ancestors(last: fx.Node, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Those of the nodes on which the last one depends, and itself, in their order."""
    needed, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return [node for node in nodes if node in needed]


def agreement_of(
    node: fx.Node,
    value: np.ndarray,
    expected: Values,
    core: ExportedProgram,
    inputs: Sequence[np.ndarray],
    weights: str,
) -> Agreement:
    """Of the node's compiled value with PyTorch's; what rounding decides counts as equal. `weights`: dtype in which
    layers may store theirs.
    """
    relative = RELATIVE.get(weights, 0.0)
    agreement = compare(value, to_array(expected[node]), relative=relative)
    if not agreement.holds and (allowed := allowance(core, node, inputs)):
        agreement = compare(value, to_array(expected[node]), allowed=allowed, relative=relative)
    tied = not agreement.holds and agreement.limit == 0
    if tied and ties.explains(node, own_tensor(value), expected, relative):
        return Agreement(0.0, 0.0, "")
    return agreement
