"""Which operators are decomposed, and into what."""

from collections.abc import Callable, Collection
from functools import cache

import torch
from torch._decomp import decomposition_table
from torch.export import ExportedProgram, default_decompositions

from subp_contract.errors import UserError, first_line
from tvm_sched.frontend.decompositions import composites, recurrent, sampling

ROUNDS = 4  # of decomposition; each may bring up operators that take another


def decomposed(program: ExportedProgram, kept: Collection[str]) -> ExportedProgram:
    """The program in ATen's core operators and those `kept` ('name.overload', or the name for all overloads), recurrent
    layers unrolled. Raises UserError where these are too long, or where PyTorch's decompositions fail.
    """
    table = dict(_table(frozenset(kept))) | sampling.decompositions()
    try:
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
    except UserError:
        raise
    except Exception as error:  # of any kind: PyTorch's decompositions run, and check themselves by assertions
        raise UserError(
            f"PyTorch cannot write this network in its core operators: {first_line(error)}; find the module at fault "
            "by compiling parts, and compute it another way"
        ) from error
    return program


@cache
def _table(kept: frozenset[str]) -> dict[Callable, Callable]:
    """PyTorch's table, without the operators that stay; what it lacks. Made once: it walks all of ATen."""
    table = default_decompositions()
    whole = {operator: decomposition for operator, decomposition in table.items() if not is_kept(operator, kept)}
    return whole | recurrent.UNROLLED | composites.COMPOSITES


def is_kept(operator: Callable, kept: Collection[str]) -> bool:
    """Whether an operator is among those that stay."""
    name, _, overload = str(operator).rpartition(".")
    short = name.split(".")[-1]
    return isinstance(operator, torch._ops.OpOverload) and (short in kept or f"{short}.{overload}" in kept)
