"""From scheduled functions to machine code: TVM's own lowering, with passes of ours in it."""

from dataclasses import dataclass
from math import prod

import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from tvm_sched.passes.graph.constants import is_op
from tvm_sched.passes.graph.hoist_constants import PREPARE
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.flatten_indices import with_flat_indices
from tvm_sched.passes.tir.insert_prefetches import with_prefetches
from tvm_sched.passes.tir.keep_registers import with_registers
from tvm_sched.targets import Target

PIPELINE = "tvm_sched"


def build(mod: IRModule, target: Target):
    """The executable of scheduled TIR functions, and of Relax functions that call them where these have been lowered to
    the virtual machine's.
    """
    return tvm.compile(mod, target=target.tvm(), relax_pipeline=None, tir_pipeline=PIPELINE)


def passes():
    """(passes of the whole module, of the host's part, of other devices' parts), as TVM wants them."""
    lower, finalize_host, finalize_device = get_tir_pipeline("default")
    return (
        tvm.transform.Sequential([each(with_flat_indices), each(with_prefetches), lower]),
        lambda: tvm.transform.Sequential([each(with_registers), finalize_host()]),
        finalize_device,
    )


register_tir_pipeline(PIPELINE, passes)


@dataclass(frozen=True)
class Memory:
    """Bytes that a network takes while it runs, besides its input."""

    workspace: int  # activations, as planned statically, and the output
    weights: int  # constants, which the file holds
    prepared: int  # what 'prepare' makes of them when the network is loaded


def build_network(network: IRModule, target: Target):
    """(TVM's executable, its Memory) of 'main' and, where there is one, 'prepare', which call scheduled functions."""
    with target.tvm():
        mod = relax.get_pipeline("default_build")(network)
    functions = [function for function in network.functions.values() if isinstance(function, relax.Function)]
    constants = {each.value: bytes_of(each.ty) for function in functions for each in visited(function, GenericConst)}
    storages = [call for call in visited(mod["main"], relax.Call) if is_op(call, "relax.vm.alloc_storage")]
    workspace = sum(int(call.args[0].values[0]) for call in storages)
    prepared = sum(bytes_of(function.ret_ty) for var, function in network.functions.items() if var.name_hint == PREPARE)
    return build(mod, target), Memory(workspace, sum(constants.values()), prepared)


def visited(function: relax.Function, kind: type) -> list:
    """The function's expressions of that class."""
    found = []
    relax.analysis.post_order_visit(function, lambda expr: found.append(expr) if isinstance(expr, kind) else None)
    return found


def bytes_of(ty) -> int:
    """Size of a tensor, or of a tuple of them, by its Relax type."""
    if hasattr(ty, "fields"):
        return sum(bytes_of(field) for field in ty.fields)
    return prod(int(extent) for extent in ty.shape) * ty.dtype.dtype.itemsize
