"""Functions of TIR that are called with plain pointers, and those that call them so, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.ir import GlobalVar
from tvm.tirx import PrimFunc

from tvm_sched.passes.tir.marks import CALLER, DIRECT, INTERNAL, POINTERS, SCHEDULED

ALIGNMENT = 64  # bytes, of what compiled code takes
SCOPE, CPU, DATA = "compute_scope", 1, 1  # TVM's; the last is the data of a DLTensor
CLOCK, UTC = "timespec_get", 1  # of C11: seconds and nanoseconds, two int64 on the targets' 64 bits
STAMP = 16  # bytes of them


@dataclass(frozen=True)
class DirectCall:
    """A function, and where each of its arguments lies: (which of the caller's parameters, bytes behind its start)."""

    function: GlobalVar
    arguments: tuple[tuple[int, int], ...]


def steps_function(name: str, tensors: int, calls: Sequence[DirectCall], first: int | None) -> PrimFunc:
    """The function of that name that makes the calls, in order, on so many tensors that it is given.

    first: None, or another tensor takes times [points, 2] in int64: the time before each call and after the last, from
           this point on
    """
    handles = [tirx.Var(f"t{number}", "handle") for number in range(tensors + (first is not None))]
    # Opaque to TVM, which would begin with a dozen tests of each buffer: more code than the calls.
    starts = [tirx.tvm_struct_get(handle, 0, DATA, ir.PointerType(ir.PrimType("uint8"))) for handle in handles]

    def place(which: int, offset: int) -> ir.Expr:
        return tirx.handle_add_byte_offset(starts[which], offset) if offset else starts[which]

    body: list[tirx.Stmt] = []
    for number, call in enumerate(calls):
        if first is not None:
            body.append(stamp(place(-1, STAMP * (first + number))))
        failed = ir.Call(call.function, [place(*each) for each in call.arguments], ret_ty=ir.PrimType("int32")) != 0
        body.append(tirx.IfThenElse(failed, tirx.Evaluate(tirx.tvm_throw_last_error()), None))
    if first is not None:
        body.append(stamp(place(-1, STAMP * (first + len(calls)))))
    attrs = {"global_symbol": name, SCHEDULED: True, INTERNAL: True, CALLER: True}
    return PrimFunc(handles, tirx.SeqStmt(body) if len(body) > 1 else body[0]).with_attrs(attrs)


def stamp(place: ir.Expr) -> tirx.Stmt:
    """Writes the time to a place."""
    return tirx.Evaluate(tirx.call_extern("int32", CLOCK, place, UTC))


def lowered_apart(lower: Callable[[IRModule], IRModule]) -> Callable[[IRModule], IRModule]:
    """TVM's lowering, of the functions that call others apart from these: it would make them call by its convention."""

    def run(mod: IRModule) -> IRModule:
        callers = {var: func for var, func in mod.functions.items() if func.attrs.get(CALLER)}
        others = {var: func for var, func in mod.functions.items() if var not in callers}
        lowered = {**lower(IRModule(others, attrs=mod.attrs)).functions} if others else {}
        if callers:  # TVM wants to know whom they call, if not how
            stub = PrimFunc([], tirx.Evaluate(tirx.const(0, "int32")))
            called = {
                var: stub.with_attr("target", func.attrs["target"])
                for var, func in others.items()
                if func.attrs.get(DIRECT)
            }
            lowered |= {
                var: func for var, func in lower(IRModule(callers | called)).functions.items() if var in callers
            }
        return IRModule(lowered, attrs=mod.attrs)

    return run


def take_pointers(func: PrimFunc) -> PrimFunc:
    """A function that is marked for it with pointers in the place of TVM's boxed arguments; it returns 0, or what went
    wrong. One that had pointers before TVM's lowering, behind which this runs, is told its device.
    """
    if func.attrs.get(POINTERS):
        return func.with_body(_on_cpu(func.body))
    name = func.attrs.get(DIRECT)
    if name is None:
        return func
    scopes: list[tirx.AttrStmt] = []  # that TVM makes a function of, whose pointers do not alias
    declared: list[tirx.DeclBuffer] = []  # the parameters first, in order

    def see(stmt: tirx.AttrStmt) -> None:
        if stmt.attr_key == SCOPE:
            scopes.append(stmt)

    tvm_ffi.structural_walk(func.body, [(tirx.AttrStmt, see), (tirx.DeclBuffer, declared.append)], order="pre")
    (scope,) = scopes
    inside: set[tirx.DeclBuffer] = set()
    tvm_ffi.structural_walk(scope.body, (tirx.DeclBuffer, inside.add), order="pre")
    buffers = [declaration.buffer for declaration in declared if declaration not in inside]
    pointers = [tirx.Var(buffer.name, tirx.buffer.buffer_data_pointer_type(buffer)) for buffer in buffers]
    body: tirx.Stmt = tirx.SeqStmt(
        [
            *(tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(buffers, pointers, strict=True)),
            scope,
            tirx.Return(tirx.const(0, "int32")),
        ]
    )
    body = _on_cpu(body)
    for buffer in buffers:
        body = tirx.AttrStmt(buffer, "storage_alignment", tirx.const(ALIGNMENT, "int32"), body)
    return PrimFunc(pointers, body, ir.PrimType("int32")).with_attrs({"target": func.attrs["target"]})


def _on_cpu(body: tirx.Stmt) -> tirx.Stmt:
    """Statements that ask for memory on the CPU; TVM knows a function's device by its arrays."""
    for key, value in (("device_type", CPU), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.const(value, "int32"), body)
    return body
