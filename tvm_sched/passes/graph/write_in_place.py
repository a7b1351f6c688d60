"""Lets a kernel write its result over an operand that dies with it: the sum of a residual block over the residual.

A kernel whose epilogue reads `residual[p]` and writes `y[p]` needs no second buffer. That matters beyond memory: what
is written has just been read, so no line of a fresh buffer must first be fetched, and the activations that a residual
block goes back and forth between fit the caches longer.

    y = call_tir(conv, x, w, residual)   ->   y = call_tir_inplace(conv, x, w, residual), y in the residual's memory
"""

import tvm_ffi
from tvm import IRModule, ir, relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from tvm_sched.kernels.rewrites.loops import PARTITION
from tvm_sched.kernels.rewrites.tir_blocks import CHOICE, is_point
from tvm_sched.passes.graph.relax_tools import is_op, rewritten, shape_of
from tvm_sched.planning.explain import IN_PLACE


def write_in_place(mod: IRModule) -> IRModule:
    """Rewrites calls in 'main', whose functions are scheduled; arguments of 'main' are never written over. A function
    that nothing calls any more, since all its calls write over an operand, is dropped: it would be compiled in vain.
    """
    return relax.transform.DeadCodeElimination()(rewritten(_Writer(mod), mod))


@mutator
class _Writer(PyExprMutator):
    def __init__(self, mod: IRModule):
        super().__init__(mod)
        self.mod = mod
        self.last_use, self.memory = lifetimes(mod)
        self.step = -1
        self.made = {}  # (function, operand) -> the function that writes over it

    def visit_var_binding_(self, binding):
        self.step += 1
        self.bound = binding
        super().visit_var_binding_(binding)

    def visit_call_(self, call):
        call = super().visit_call_(call)
        if not is_op(call, "relax.call_tir") or not isinstance(call.ty, relax.TensorType):
            return call
        operand = next((i for i in range(len(call.args[1])) if self.may_write_over(i, call)), None)
        if operand is None:
            return call
        function = call.args[0]
        key = function.name_hint, operand
        if key not in self.made:
            self.made[key] = self.builder_.add_func(
                in_place(self.mod[function], operand), function.name_hint + IN_PLACE
            )
        return relax.call_tir_inplace(self.made[key], call.args[1], operand, call.ty)

    def may_write_over(self, operand: int, call) -> bool:
        """Whether the operand has the result's shape, is read where the result is written, and not needed any more."""
        var = self.bound.value.args[1][operand]  # of the old function
        owner = self.memory.get(var)
        return (
            owner is not None
            and self.last_use[owner] == self.step
            and sum(self.memory.get(other) is owner for other in self.bound.value.args[1]) == 1
            and shape_of(var) == shape_of(call)
            and var.ty.dtype == call.ty.dtype
            and reads_where_it_writes(self.mod[call.args[0]], operand)
        )


def lifetimes(mod: IRModule) -> tuple[dict, dict]:
    """(last step at which each piece of memory is used, the memory of each variable) of 'main'. A piece is known by the
    variable that it was made for; reshapes and tuples are views of it. What 'main' is given or returns has no end.
    """
    main = mod["main"]
    memory, last_use = {}, {}
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    for step, binding in enumerate(bindings):
        used = [memory[var] for var in relax.analysis.free_vars(binding.value) if var in memory]
        last_use |= dict.fromkeys(used, step)
        kernel = is_op(binding.value, "relax.call_tir") and not relax.analysis.has_reshape_pattern(
            mod[binding.value.args[0]]
        )
        if kernel and isinstance(binding.value.ty, relax.TensorType):
            memory[binding.var] = binding.var
        elif len(used) == 1:
            memory[binding.var] = used[0]
        else:
            last_use |= dict.fromkeys(used, len(bindings))
    last_use |= {memory[var]: len(bindings) for var in relax.analysis.free_vars(main.body.body) if var in memory}
    return last_use, memory


def reads_where_it_writes(func: PrimFunc, operand: int) -> bool:
    """Whether one block alone reads the operand, at the place where it, and no other block, writes the result."""
    source, result = func.params[operand], func.params[-1]
    blocks = []
    tvm_ffi.structural_walk(func.body, (SBlock, blocks.append), order="post")
    *blocks, _ = blocks  # the last holds the others
    readers = [(block, read) for block in blocks for read in block.reads if read.source.same_as(source)]
    writers = [(block, write) for block in blocks for write in block.writes if write.source.same_as(result)]
    if len(readers) != 1 or len(writers) != 1:
        return False
    (reader, read), (writer, write) = readers[0], writers[0]
    return (
        reader.same_as(writer)
        and len(read.region) == len(write.region)
        and all(map(same_place, read.region, write.region))
        and not is_run_twice(func)
    )


def same_place(one: ir.Range, other: ir.Range) -> bool:
    """Whether both are one index, the same."""
    return is_point(one) and is_point(other) and tvm_ffi.structural_equal(one.min, other.min)


def is_run_twice(func: PrimFunc) -> bool:
    """Whether TVM may run an iteration twice, which is right as long as what it reads stays what it was: where a loop
    that is to be partitioned by its bounds holds a choice (padding, a concatenation) too, TVM's parts overlap.
    """
    loops, choices = [], []
    tvm_ffi.structural_walk(func.body, (tirx.For, loops.append), order="post")
    for loop in loops:
        if PARTITION in loop.annotations:
            tvm_ffi.structural_walk(loop, (ir.Call, choices.append), order="post")
    return any(getattr(call.op, "name", "") == CHOICE for call in choices)


def in_place(func: PrimFunc, operand: int) -> PrimFunc:
    """The function without its last parameter, the result; the operand takes its place."""
    source, result = func.params[operand], func.params[-1]
    body = tvm_ffi.structural_map(func.body, (tirx.Var, lambda var: source if var.same_as(result) else var))
    return PrimFunc(func.params[:-1], body, func.ret_type).with_attrs(dict(func.attrs))
