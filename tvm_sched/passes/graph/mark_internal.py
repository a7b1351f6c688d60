"""Marks the functions that only ever get tensors which the network itself makes: they need not test their arguments.

TVM begins every function with tests of its arguments' types, shapes and strides; of a network's functions these are
more code than the kernels. What takes the caller's input keeps them (`passes/tir/skip_argument_checks`).
"""

from tvm import IRModule, relax
from tvm.ir import GlobalVar
from tvm.tirx import PrimFunc

from tvm_sched.passes.graph.hoist_constants import INPUTS, mains
from tvm_sched.passes.graph.relax_tools import is_kernel_call

INTERNAL = "subp.internal"


def mark_internal(mod: IRModule) -> IRModule:
    """Marks the functions to which no 'main' gives an input or a view of it; what 'prepare' makes is internal."""
    outside = {called for function in mains(mod) for called in reached(function, mod)}
    inside = {
        var: function.with_attr(INTERNAL, True)
        for var, function in mod.functions.items()
        if isinstance(function, PrimFunc) and var not in outside
    }
    return IRModule({**mod.functions, **inside}, attrs=mod.attrs)


def reached(main: relax.Function, mod: IRModule) -> set[GlobalVar]:
    """The functions that take an input of 'main' or a view of it."""
    count = int((main.attrs or {}).get(INPUTS, len(main.params)))
    given, found = set(main.params[:count]), set()
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        if not given & set(relax.analysis.free_vars(binding.value)):
            continue
        function = binding.value.args[0] if is_kernel_call(binding.value) else None
        if function is None or relax.analysis.has_reshape_pattern(mod[function]):
            given.add(binding.var)
        if function is not None:
            found.add(function)
    return found
