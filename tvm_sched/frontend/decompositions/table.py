"""Which operators are decomposed, and into what."""

from collections.abc import Callable, Collection

import torch
from torch._decomp import decomposition_table
from torch.export import ExportedProgram, default_decompositions

from tvm_sched.frontend.decompositions import recurrent, sampling

ROUNDS = 4  # of decomposition; each may bring up operators that take another


def decomposed(program: ExportedProgram, kept: Collection[str]) -> ExportedProgram:
    """The program in ATen's core operators and those `kept` ('name.overload', or the name for all overloads), recurrent
    layers unrolled. Raises UserError where these are too long.
    """
    table = default_decompositions()
    for operator in [each for each in table if is_kept(each, kept)]:
        del table[operator]
    table.update(recurrent.UNROLLED | sampling.decompositions())
    program = program.run_decompositions(table)
    for _ in range(ROUNDS):
        more = {
            node.target: decomposition_table[node.target]
            for node in program.graph.nodes
            if isinstance(node.target, torch._ops.OpOverload)
            and node.target in decomposition_table
            and not is_kept(node.target, kept)
        }
        if not more:
            break
        program = program.run_decompositions(more)
    return program


def is_kept(operator: Callable, kept: Collection[str]) -> bool:
    """Whether an operator is among those that stay."""
    name, _, overload = str(operator).rpartition(".")
    short = name.split(".")[-1]
    return isinstance(operator, torch._ops.OpOverload) and (short in kept or f"{short}.{overload}" in kept)
