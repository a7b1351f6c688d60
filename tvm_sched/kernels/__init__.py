"""One file a kernel: the compute, the schedule as rewrites with a tile, the tiles worth trying, best guess first; and
what they share. `base.py` says what a kernel is, `KERNELS` lists them; the compiler knows them by nothing else.

`narrow/`, `integer/`: those for narrow blocks, and for 8 bits; `rewrites/`: steps of schedules; `generic/`: schedules
for functions that hold no kernel of ours. May import `targets` and `subp_contract`, and nothing else of the package.
"""

import tvm_ffi
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from subp_contract.errors import require
from tvm_sched.kernels import (
    columns_conv2d,
    depthwise_conv2d,
    direct_conv2d,
    space_to_depth,
    winograd_conv2d,
)
from tvm_sched.kernels.base import Kernel, kernel_name
from tvm_sched.kernels.integer import integer_linear, look_up
from tvm_sched.kernels.integer.planar import planar_conv2d, planar_depthwise, planar_pool, planar_stem, planar_winograd
from tvm_sched.kernels.narrow import pixel_lanes_conv2d, planes_conv2d, winograd_lanes_conv2d
from tvm_sched.kernels.rewrites import kinds
from tvm_sched.targets import Target

kinds.remember()

KERNELS: list[Kernel] = [
    depthwise_conv2d.KERNEL,
    direct_conv2d.KERNEL,
    pixel_lanes_conv2d.KERNEL,
    planes_conv2d.KERNEL,
    columns_conv2d.KERNEL,
    winograd_conv2d.KERNEL,
    winograd_lanes_conv2d.KERNEL,
    planar_conv2d.KERNEL,
    planar_winograd.KERNEL,
    planar_depthwise.KERNEL,
    planar_stem.KERNEL,
    integer_linear.KERNEL,
]
# Functions of ours without weights, for which there is nothing to choose: name -> its one schedule.
TRANSFORMATIONS = {
    space_to_depth.NAME: space_to_depth.schedule,
    planar_pool.NAME: planar_pool.schedule,
    look_up.NAME: look_up.schedule,
}


def kernel_of(func: PrimFunc) -> Kernel | None:
    """The kernel that a fused function holds, by its mark; None for any other."""
    name = kernel_name(func)
    return next((kernel for kernel in KERNELS if kernel.name == name), None)


def seen_by(func: PrimFunc, target: Target) -> Target:
    """The CPU as a fused function's schedule sees it, by the type of its data: a kernel's is its image's, any other
    function's that of all fractions that it makes.
    """
    if kernel_name(func) is not None:
        return target.of_dtype(str(func.params[0].dtype))
    made: set[str] = set()
    tvm_ffi.structural_walk(func.body, (SBlock, lambda block: made.update(str(w.source.dtype) for w in block.writes)))
    return target.of_dtype("float16") if "float16" in made and "float32" not in made else target


def register(kernel: Kernel) -> Kernel:
    """Lists a kernel of one's own behind the others. Returns it. Raises UserError for a name that is taken."""
    require(all(kernel.name != other.name for other in KERNELS), f"there is a kernel '{kernel.name}' already")
    KERNELS.append(kernel)
    return kernel
