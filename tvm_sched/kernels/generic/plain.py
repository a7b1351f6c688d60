"""The schedule of last resort, for a function that the rules fail on or are not for: its own loops, threads over the
outermost.
"""

from tvm.s_tir import Schedule

from tvm_sched.kernels.rewrites.tir_blocks import axes, blocks_of, is_regular, shared
from tvm_sched.targets import Target


def schedule(sch: Schedule, target: Target) -> None:
    """Threads share the outermost loop of each block that computes its elements one by one."""
    for block in blocks_of(sch):
        if is_regular(sch, block) and shared(sch, [block], target):
            outermost = axes(sch, block)[0]
            if not outermost.reduced:
                sch.parallel(outermost.loop)
