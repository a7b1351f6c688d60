"""From scheduled functions to machine code: TVM's own lowering, with two passes of ours in it."""

import tvm
from tvm import IRModule
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from tvm_sched.passes.insert_prefetches import insert_prefetches
from tvm_sched.passes.keep_registers import keep_registers
from tvm_sched.targets import Target

PIPELINE = "tvm_sched"


def build(mod: IRModule, target: Target):
    """The executable of a module of scheduled TIR functions, and of the Relax functions that call them, if any."""
    return tvm.compile(mod, target=target.tvm(), relax_pipeline="default_build", tir_pipeline=PIPELINE)


def pipeline():
    """(passes of the whole module, of the host's part, of other devices' parts), as TVM wants them."""
    lower, finalize_host, finalize_device = get_tir_pipeline("default")
    return (
        tvm.transform.Sequential([insert_prefetches, lower]),
        lambda: tvm.transform.Sequential([keep_registers, finalize_host()]),
        finalize_device,
    )


register_tir_pipeline(PIPELINE, pipeline)
