"""Compiles one TE computation by hand and runs it on arrays."""

import numpy as np
import tvm
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched import codegen


def function(inputs, output) -> tvm.IRModule:
    """The unscheduled function of TE tensors."""
    return tvm.IRModule({"main": te.create_prim_func([*inputs, output])})


def tiles(kernel, mod: tvm.IRModule, target) -> list:
    """The tiles that a kernel finds worth trying for its function."""
    return kernel.tiles(kernel.problem(Schedule(mod)), target)


def scheduled(kernel, mod: tvm.IRModule, target, tile=None) -> Schedule:
    """The kernel's function with a tile, by default the best guess."""
    sch = Schedule(mod)
    kernel.schedule(sch, tile or tiles(kernel, mod, target)[0], target)
    return sch


def kind(tensor) -> tuple:
    """dtype and shape."""
    return str(tensor.dtype), tuple(map(int, tensor.shape))


def run(sch: Schedule, target, arrays, shape, dtype="float32") -> np.ndarray:
    """What the scheduled function writes; its output begins as NaN, or the largest integer, so that an element left out
    shows.
    """
    nothing = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.nan
    output = tvm.runtime.tensor(np.full(shape, nothing, dtype))
    given = [*map(tvm.runtime.tensor, arrays), output]
    assert list(map(kind, given)) == list(map(kind, sch.mod["main"].params))  # which it does not test itself
    codegen.build_alone(sch.mod, target)["main"](*given)
    return output.numpy()


def replays(sch: Schedule, mod: tvm.IRModule) -> bool:
    """Whether the schedule's trace, by way of JSON as in a tuning record, gives the same function again."""
    again = Schedule(mod)
    tvm.s_tir.schedule.Trace.apply_json_to_schedule(sch.trace.as_json(), again)
    tvm.ir.assert_structural_equal(again.mod, sch.mod)
    return True
