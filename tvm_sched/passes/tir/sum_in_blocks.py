"""Sums many products of half precision in blocks: each sum of a block starts from zero, and is then added to the total.

A sum of K numbers of eleven bits loses, relative to its result, about 2^-12 sqrt(K / 6) by rounding as it grows; in
blocks of c it loses 2^-12 sqrt(c / 6 + K / 6c). Of 1152 products 3.4e-3 was measured at once and 1.0e-3 in blocks of
64, of which the adding of blocks is the lesser part: float16 does for that too.

A schedule marks the loop of its sum with the steps of a block (`loops.sum_in_blocks`).
"""

from collections.abc import Sequence

import tvm_ffi
from tvm import ir, tirx
from tvm.tirx import PrimFunc

from tvm_sched.kernels.ranking import divisors
from tvm_sched.kernels.rewrites.loops import BLOCK_STEPS


def sum_in_blocks(func: PrimFunc) -> PrimFunc:
    """The function with its marked loops in blocks. To run on flat memory, before registers go to the stack."""
    return tvm_ffi.structural_map(func, (tirx.For, in_blocks))


def in_blocks(loop: tirx.For) -> tirx.Stmt:
    """A marked loop as blocks of steps; one that is no longer than a block as it is."""
    if BLOCK_STEPS not in loop.annotations:
        return loop
    annotations = dict(loop.annotations)
    steps, extent = int(annotations.pop(BLOCK_STEPS)), int(loop.extent)
    sums = accumulated(loop.body)
    if extent <= steps or not sums:
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, annotations=annotations)
    blocks = {load.source: like(load.source) for load in sums}
    of_block = [tirx.BufferLoad(blocks[load.source], load.indices) for load in sums]
    zero = [tirx.BufferStore(each.source, tirx.const(0, each.ty.dtype), each.indices) for each in of_block]
    add = [
        tirx.BufferStore(total.source, total + each, total.indices) for total, each in zip(sums, of_block, strict=True)
    ]

    def block(start: ir.Expr, length: int) -> list[tirx.Stmt]:
        """Of so many steps, from that one on."""
        step = fresh(loop.loop_var)
        new = {**blocks, **{var: fresh(var) for var in defined(loop.body)}, loop.loop_var: start + step}
        body = tvm_ffi.structural_map(loop.body, (tirx.Var, lambda var: new.get(var, var)))
        inner = tirx.For(
            step, loop.min, tirx.const(length, loop.extent.ty.dtype), loop.kind, body, annotations=annotations
        )
        return [*zero, inner, *add]

    length = max((d for d in divisors(extent, steps) if 2 * d > steps), default=steps)
    count, rest = divmod(extent, length)
    number = tirx.Var("block", loop.loop_var.ty)
    whole = tirx.SeqStmt(block(number * length, length))
    made = [tirx.AllocBuffer(each) for each in blocks.values()]
    made.append(tirx.For(number, loop.min, tirx.const(count, loop.extent.ty.dtype), tirx.ForKind.SERIAL, whole))
    return tirx.SeqStmt([*made, *(block(tirx.const(count * length, loop.extent.ty.dtype), rest) if rest else [])])


def defined(body: tirx.Stmt) -> list[tirx.Var]:
    """The variables that the statement makes: each copy of it needs its own."""
    found: list[tirx.Var] = []
    makers = [
        (tirx.Bind, lambda bind: found.append(bind.var)),
        (tirx.For, lambda loop: found.append(loop.loop_var)),
    ]
    tvm_ffi.structural_walk(body, makers, order="post")
    return found


def fresh(var: tirx.Var) -> tirx.Var:
    """Another variable of the same name and type."""
    return tirx.Var(var.name, var.ty)


def like(buffer: tirx.Buffer) -> tirx.Buffer:
    """Another buffer of the same kind."""
    return tirx.decl_buffer(buffer.shape, buffer.dtype, f"{buffer.name}_block", scope=buffer.scope())


def accumulated(body: tirx.Stmt) -> list[ir.TensorLoad]:
    """What the statement adds to, each place in local memory once: y of y = y + term."""
    found: list[ir.TensorLoad] = []

    def see(store: tirx.BufferStore) -> None:
        total = getattr(store.value, "a", None)
        adds = isinstance(store.value, tirx.Add) and isinstance(total, ir.TensorLoad)
        if adds and same(total, store.buffer, store.indices):
            known = any(same(total, other.source, other.indices) for other in found)
            found.extend([] if known else [total])

    tvm_ffi.structural_walk(body, (tirx.BufferStore, see), order="post")
    return found


def same(load: ir.TensorLoad, buffer: tirx.Buffer, indices: Sequence) -> bool:
    """Whether a load is of that place."""
    return load.source.same_as(buffer) and all(map(tvm_ffi.structural_equal, load.indices, indices))
