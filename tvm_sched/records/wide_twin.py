"""The function of float32 weights that does what one of 16-bit weights does: what has been measured of it holds for the
other well enough, where that itself was not measured.

Both have the same blocks, loops and problem but for how weights are stored; a trace of one's schedule is one of the
other's.
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from tvm_sched.kernels.conv_problem import annotation
from tvm_sched.kernels.rewrites.tir_blocks import without
from tvm_sched.targets.sizes import FLOAT32, NARROW

STORED = annotation("weights")


def wide_twin(func: PrimFunc) -> PrimFunc | None:
    """That function, not scheduled either; None for one that has no weights of 16 bits."""
    met = []  # blocks that say so: of others the data may be of 16 bits

    def untold(block: SBlock) -> SBlock:
        if STORED not in block.annotations:
            return block
        met.append(block)
        return without(block, (STORED,))

    body = tvm_ffi.structural_map(func.body, (SBlock, untold))
    if not met:
        return None
    wide = {
        param: tirx.decl_buffer(param.ty.shape, FLOAT32, param.name, layout=param.ty.layout)
        for param in func.params
        if str(param.dtype) in NARROW
    }

    def loaded(cast: tirx.Cast) -> ir.Expr:
        load = cast.value
        narrow = isinstance(load, ir.TensorLoad) and load.source in wide
        return tirx.BufferLoad(wide[load.source], load.indices) if narrow else cast

    body = tvm_ffi.structural_map(body, (tirx.Cast, loaded))
    body = tvm_ffi.structural_map(body, (tirx.Var, lambda var: wide.get(var, var)))
    made = PrimFunc([wide.get(param, param) for param in func.params], body, func.ret_type)
    return made.with_attrs(dict(func.attrs)) if func.attrs else made
