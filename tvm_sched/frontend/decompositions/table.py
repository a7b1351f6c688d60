"""Which operators are decomposed, and into what."""

from collections.abc import Callable, Collection
from functools import lru_cache, partial

import torch
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.export import ExportedProgram, default_decompositions, exported_program

from subp_contract.errors import UserError, first_line
from tvm_sched.frontend.decompositions import composites, recurrent, sampling

Table = dict[Callable, Callable]


def decomposed(program: ExportedProgram, kept: Collection[str]) -> ExportedProgram:
    """The program in ATen's core operators and those `kept` ('name.overload', or the name for all overloads), recurrent
    layers unrolled. Raises UserError where these are too long, or where PyTorch's decompositions fail.
    """
    try:
        return run(program, frozenset(kept))
    except UserError:
        raise
    except Exception as error:  # of any kind: PyTorch's decompositions run, and check themselves by assertions
        raise UserError(
            f"PyTorch cannot write this network in its core operators: {first_line(error)}; find the module at fault "
            "by compiling parts, and compute it another way"
        ) from error


def run(program: ExportedProgram, kept: frozenset[str]) -> ExportedProgram:
    """`program.run_decompositions(table_of(kept))`, in a quarter of the time. PyTorch's own walks over all of its
    operators in each call to sort out the table, and registers twenty functions for each that is composed of others,
    half of a small network's compilation. Here the table is sorted out once, and of what is composed of others none is
    registered anew where the table has what they are composed of anyway.
    """
    composite, other = _sorted_out(kept, composite_operators(), hasattr(torch.ops.torchvision, "roi_align"))
    with unset_fake_temporarily():
        return exported_program._decompose_exported_program(
            program,
            cia_to_decomp=composite,
            python_decomp_table=dict(other),
            joint_loss_index=None,
            decompose_custom_triton_ops=False,
        )


def composite_operators() -> frozenset[str]:
    """The names of all operators registered by now, other libraries' too, that are composed of others."""
    return frozenset(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))


@lru_cache(maxsize=4)
def _sorted_out(kept: frozenset[str], _operators: frozenset[str], _torchvision: bool) -> tuple[Table, Table]:
    """The table's operators that are composed of others, without those that it decomposes into just these; all others.
    Anew when there are more operators.
    """
    composite, other = exported_program._split_decomp_table_to_cia_and_python_decomp(table_of(kept))
    return {operator: each for operator, each in composite.items() if not isinstance(each, partial)}, other


def table_of(kept: frozenset[str]) -> Table:
    """What PyTorch has decompositions for, those into core operators first, without the operators that stay; what it
    lacks.
    """
    table = decomposition_table | dict(default_decompositions().items())
    whole = {operator: decomposition for operator, decomposition in table.items() if not is_kept(operator, kept)}
    return whole | recurrent.UNROLLED | composites.COMPOSITES | sampling.decompositions()


def is_kept(operator: Callable, kept: Collection[str]) -> bool:
    """Whether an operator is among those that stay."""
    name, _, overload = str(operator).rpartition(".")
    short = name.split(".")[-1]
    return isinstance(operator, torch._ops.OpOverload) and (short in kept or f"{short}.{overload}" in kept)
