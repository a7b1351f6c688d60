"""Moves the marks of fused functions to where everybody can read them, and makes equal functions one.

Fusion keeps attributes of blocks and nothing else. So far a function per layer tells its kernel and its layer on its
kernel's block; from here on

- the function's attribute `subp.kernel` names the kernel,
- the variable that holds a call's result is named after the layer,
- layers that differ in their weights' values alone share one function, which is scheduled, tuned and compiled once.
"""

import tvm_ffi
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from tvm_sched.kernels.base import KERNEL_MARK, LAYER_MARK
from tvm_sched.kernels.rewrites.tir_blocks import without
from tvm_sched.passes.graph.layer_names import PREFIX
from tvm_sched.passes.graph.relax_tools import is_op, rewritten

MARKS = (KERNEL_MARK, LAYER_MARK)


def share_functions(mod: IRModule) -> IRModule:
    """Rewrites the module, whose 'main' calls fused functions."""
    return relax.transform.DeadCodeElimination()(rewritten(_Sharer(mod), mod))


@mutator
class _Sharer(PyExprMutator):
    def __init__(self, mod: IRModule):
        super().__init__(mod)
        self.layers, self.shared = {}, {}  # by the name of a function: the layer it computes; the function that serves
        known = {}  # hash -> functions
        for var, func in mod.functions_items():
            if not isinstance(func, PrimFunc):
                continue
            marks = marks_of(func)
            if not marks:
                continue
            self.layers[var.name_hint] = marks.get(LAYER_MARK)
            bare = without_marks(func).with_attr(KERNEL_MARK, marks[KERNEL_MARK])
            equal = known.setdefault(tvm_ffi.structural_hash(bare), [])
            server = next((one for one, other in equal if tvm_ffi.structural_equal(other, bare)), var)
            self.shared[var.name_hint] = server
            if server is var:
                equal.append((var, bare))
                self.builder_.update_func(var, bare)

    def visit_var_binding_(self, binding):
        name = binding.value.args[0].name_hint if is_op(binding.value, "relax.call_tir") else None
        layer = self.layers.get(name)
        if name not in self.shared:
            super().visit_var_binding_(binding)
            return
        value = self.visit_expr(binding.value)
        value = relax.Call(value.op, [self.shared[name], *value.args[1:]], value.attrs, value.ty_args)
        value = self.builder_.normalize(value)
        if layer is None:
            var = binding.var
        else:
            kind = relax.DataflowVar if isinstance(binding.var, relax.DataflowVar) else relax.Var
            var = kind(PREFIX + layer, value.ty)
        self.builder_.emit_normalized(relax.VarBinding(var, value))
        self.set_var_remap(binding.var, var)


def marks_of(func: PrimFunc) -> dict[str, str]:
    """The marks on the function's blocks."""
    found = {}

    def look(block: SBlock):
        found.update({key: str(block.annotations[key]) for key in MARKS if key in block.annotations})

    tvm_ffi.structural_walk(func.body, (SBlock, look), order="post")
    return found


def without_marks(func: PrimFunc) -> PrimFunc:
    """The function as it is without them: what tuning records know."""

    def bare(block: SBlock) -> SBlock:
        return without(block, MARKS) if any(key in block.annotations for key in MARKS) else block

    return tvm_ffi.structural_map(func, (SBlock, bare))
