"""Gives every TIR function its schedule: a record's, or the kernel's analytic default, or the generic one."""

from dataclasses import dataclass, field
from types import ModuleType

from tvm import IRModule, relax
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from tvm_sched.kernels import (
    depthwise_conv2d,
    direct_conv2d,
    pixel_lanes_conv2d,
    space_to_depth,
    winograd_conv2d,
)
from tvm_sched.kernels.generic import rules
from tvm_sched.records.database import Records
from tvm_sched.targets import Target

KERNELS = (direct_conv2d, pixel_lanes_conv2d, winograd_conv2d, depthwise_conv2d, space_to_depth)
SCHEDULED = "tirx.is_scheduled"  # TVM's own mark: later passes leave the loops alone


@dataclass
class Scheduled:
    """The module, and by function name how its kernel's knobs were set."""

    mod: IRModule
    knobs: dict[str, str] = field(default_factory=dict)


def schedule_functions(mod: IRModule, target: Target, records: Records | None) -> Scheduled:
    """Schedules the functions that fusion left, each on its own."""
    result = Scheduled(mod)
    for var, func in list(mod.functions_items()):
        if not isinstance(func, PrimFunc) or relax.analysis.has_reshape_pattern(func):
            continue  # a reshape copies nothing: it becomes a view
        sch, knobs = schedule_one(func, target, records)
        if knobs:
            result.knobs[var.name_hint] = knobs
        scheduled = sch.mod["main"]
        bare = PrimFunc(
            scheduled.params, scheduled.body, scheduled.ret_type
        )  # a record's function has a name of its own
        mod.update_func(var, bare.with_attrs(dict(func.attrs) | {SCHEDULED: True}))
    return result


def schedule_one(func: PrimFunc, target: Target, records: Records | None) -> tuple[Schedule, str]:
    """(schedule, knobs in words); the words are empty for functions that are none of our kernels."""
    sch = Schedule(IRModule({"main": func}))
    kernel, tiles = kernel_of(sch, target)
    if kernel is None:
        if not takes_int64(func):
            rules.schedule(sch, target)
        return sch, ""
    if records is not None and (recorded := records.best(func)) is not None:
        return recorded, records.kind(func)
    kernel.schedule(sch, tiles[0], target)
    return sch, f"default: {tiles[0]}"


def kernel_of(sch: Schedule, target: Target) -> tuple[ModuleType | None, list]:
    """The kernel module whose compute this function holds, and the tiles worth trying; (None, []) where it holds none."""
    for kernel in KERNELS:
        if tiles := kernel.tiles(sch, target):
            return kernel, tiles
    return None, []


def takes_int64(func: PrimFunc) -> bool:
    """Whether the function's data are int64: then its loops are too, on which TVM's loop partition fails. Such a
    function is left as it is.
    """
    return any(param.dtype == "int64" for param in func.params)
