"""Gives every TIR function its schedule: a record's, or its kernel's analytic default, or the generic one."""

from tvm import IRModule, relax
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from tvm_sched.kernels import TRANSFORMATIONS, kernel_of
from tvm_sched.kernels.base import kernel_name
from tvm_sched.kernels.generic import rules
from tvm_sched.records.recorded import KnownRecords
from tvm_sched.targets import Target

SCHEDULED = "tirx.is_scheduled"  # TVM's own mark: later passes leave the loops alone


def schedule_functions(mod: IRModule, target: Target, records: KnownRecords | None) -> tuple[IRModule, dict[str, str]]:
    """(the module, how each kernel's tile was set, by the function's name), each function scheduled on its own."""
    scheduled, words = {}, {}
    for var, func in mod.functions_items():
        if not isinstance(func, PrimFunc) or relax.analysis.has_reshape_pattern(func):
            continue  # a reshape copies nothing: it becomes a view
        sch, told = schedule_one(func, target, records)
        if told:
            words[var.name_hint] = told
        made = sch.mod["main"]
        bare = PrimFunc(made.params, made.body, made.ret_type)  # a record's function has a name of its own
        scheduled[var] = bare.with_attrs(dict(func.attrs) | {SCHEDULED: True})
    return IRModule({**dict(mod.functions_items()), **scheduled}, attrs=mod.attrs), words


def schedule_one(func: PrimFunc, target: Target, records: KnownRecords | None) -> tuple[Schedule, str]:
    """(schedule, how the tile was set, in words); the words are empty for functions that hold no kernel of ours."""
    sch, kernel = Schedule(IRModule({"main": func})), kernel_of(func)
    if kernel is None:
        if transform := TRANSFORMATIONS.get(kernel_name(func)):
            transform(sch, target)
        elif not takes_int64(func):
            rules.schedule(sch, target)
        return sch, ""
    if records is not None and (recorded := records.lookup(func)) is not None:
        return recorded.schedule, recorded.words
    tile = kernel.tiles(kernel.problem(sch), target)[0]
    kernel.schedule(sch, tile, target)
    return sch, f"default: {tile}"


def takes_int64(func: PrimFunc) -> bool:
    """Whether the function's data are int64: then its loops are too, on which TVM's loop partition fails. Such a
    function is left as it is.
    """
    return any(param.dtype == "int64" for param in func.params)
