"""From scheduled functions to machine code: TVM's own lowering, with passes of ours in it.

`PHASES` are the last ones of the pipeline (`pipeline.PHASES`). TVM calls them from inside its build: those of
`LOWERING` on the module, then those of `FINISHING` on the host's functions, which are all there are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod

import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from tvm_sched.passes.graph.hoist_constants import PREPARE, mains
from tvm_sched.passes.graph.relax_tools import is_op
from tvm_sched.passes.integer.aarch64.begin_sums import begin_sums
from tvm_sched.passes.integer.aarch64.begin_with_ones import begin_with_ones
from tvm_sched.passes.integer.copy_bytes import copy_bytes
from tvm_sched.passes.integer.interleave_bytes import interleave_bytes
from tvm_sched.passes.integer.look_up_bytes import look_up_bytes
from tvm_sched.passes.integer.lower_dots import lower_dots
from tvm_sched.passes.integer.narrow_bytes import narrow_bytes
from tvm_sched.passes.nonfinite.propagate_nan import propagate_nan
from tvm_sched.passes.tir.direct_calls import lowered_apart, take_pointers
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.first_products import first_products
from tvm_sched.passes.tir.flatten_indices import flatten_indices
from tvm_sched.passes.tir.import_code import import_code
from tvm_sched.passes.tir.insert_prefetches import insert_prefetches
from tvm_sched.passes.tir.keep_registers import keep_registers
from tvm_sched.passes.tir.marks import INTERNAL
from tvm_sched.passes.tir.skip_argument_checks import skip_argument_checks
from tvm_sched.passes.tir.sum_in_blocks import sum_in_blocks
from tvm_sched.passes.tir.widen_indices import widen_indices
from tvm_sched.targets import Target

PIPELINE = "tvm_sched"  # TVM's name for it
TVM_LOWERING, TVM_FINISHING, TVM_DEVICES = get_tir_pipeline("default")
Observer = Callable[[str, IRModule | str], None]  # (name of a phase, the module, or the assembly, after it)


@dataclass(frozen=True)
class CodePhase:
    """A phase that TVM's build calls."""

    name: str
    run: Callable[[IRModule], IRModule]


LOWERING = (
    # Rows of bytes are copied by vectors, planes of bytes interleaved.
    CodePhase("copy_bytes", each(copy_bytes)),
    CodePhase("interleave_bytes", each(interleave_bytes)),
    # Bytes are looked up in tables by vectors.
    CodePhase("look_up_bytes", each(look_up_bytes)),
    # Sums begin with what is added to them in the end.
    CodePhase("begin_sums", each(begin_sums)),
    # Pixels are addressed by one number where loops count them so.
    CodePhase("flatten_indices", each(flatten_indices)),
    # Of an address only the loaded index is left in the loop.
    CodePhase("widen_indices", each(widen_indices)),
    # Unrolled sums start with their first product.
    CodePhase("first_products", each(first_products)),
    # Weights are asked for before they are needed.
    CodePhase("insert_prefetches", each(insert_prefetches)),
    # Dot products of integers become instructions.
    CodePhase("lower_dots", each(lower_dots)),
    # TVM's own: blocks and buffers become loops over flat memory, vectors, calls.
    CodePhase("lower_loops", lowered_apart(TVM_LOWERING)),
    # Functions that only other functions call take pointers.
    CodePhase("take_pointers", each(take_pointers)),
)
FINISHING = (
    # LLVM's code of what functions call comes with them.
    CodePhase("import_code", each(import_code)),
    # Clipped vectors become bytes by saturation.
    CodePhase("narrow_bytes", each(narrow_bytes)),
    # Sums begin with what makes them fractions.
    CodePhase("begin_with_ones", each(begin_with_ones)),
    # Functions inside the network do not test their arguments.
    CodePhase("skip_argument_checks", each(skip_argument_checks)),
    # Long sums of half precision become sums of blocks.
    CodePhase("sum_in_blocks", each(sum_in_blocks)),
    # Sums go to the stack, where LLVM takes them for registers.
    CodePhase("keep_registers", each(keep_registers)),
    # TVM's own: what is left of its built-in functions.
    CodePhase("lower_builtins", lambda mod: TVM_FINISHING()(mod)),
    # The larger and the smaller of two numbers are NaN where one of them is.
    CodePhase("propagate_nan", each(propagate_nan)),
)
PHASES = (*LOWERING, *FINISHING)

_observer: ContextVar[Observer] = ContextVar("observer", default=lambda name, mod: None)


def build(mod: IRModule, target: Target, observe: Observer | None = None) -> relax.VMExecutable:
    """The executable of scheduled TIR functions, and of Relax functions that call them where these have been lowered to
    the virtual machine's. `observe` sees the module after each of PHASES.
    """
    with observed_by(observe):
        return tvm.compile(mod, target=target.tvm(), relax_pipeline=None, tir_pipeline=PIPELINE)


def build_alone(mod: IRModule, target: Target) -> relax.VMExecutable:
    """The executable of one scheduled function 'main', for callers that know what it takes. As inside a network, it
    does not test its arguments: of a small kernel's code these tests are more than half, and of its build a fifth.
    """
    return build(IRModule({"main": mod["main"].with_attr(INTERNAL, True)}), target)


def assembly(executable: relax.VMExecutable) -> str:
    """The machine code of an executable that `build` gave, in words."""
    module = executable.mod
    return str((module.imports[0] if module.imports else module).inspect_source("asm"))


@contextmanager
def observed_by(observe: Observer | None) -> Iterator[None]:
    """Shows the phases that run meanwhile to `observe`."""
    token = _observer.set(observe) if observe else None
    try:
        yield
    finally:
        if token:
            _observer.reset(token)


def in_turn(phases: tuple[CodePhase, ...]) -> tvm.transform.Pass:
    """The phases as one pass of TVM's."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        for phase in phases:
            mod = phase.run(mod)
            _observer.get()(phase.name, mod)
        return mod

    return run


register_tir_pipeline(PIPELINE, lambda: (in_turn(LOWERING), lambda: in_turn(FINISHING), TVM_DEVICES))


@dataclass(frozen=True)
class Memory:
    """Bytes that a network takes while it runs, besides its input."""

    workspace: int  # activations, as planned statically, and the output
    weights: int  # constants, which the file holds
    prepared: int  # what 'prepare' makes of them when the network is loaded

    @classmethod
    def of(cls, network: IRModule, planned: IRModule) -> "Memory":
        """Of 'main' (one for each shape) and, where there is one, 'prepare', before and after memory was planned."""
        functions = [function for function in network.functions.values() if isinstance(function, relax.Function)]
        constants = {
            each.value: bytes_of(each.ty) for function in functions for each in visited(function, GenericConst)
        }
        calls = [call for main in mains(planned) for call in visited(main, relax.Call)]
        storages = [call for call in calls if is_op(call, "relax.vm.alloc_storage")]
        workspace = sum(int(call.args[0].values[0]) for call in storages)
        prepared = sum(bytes_of(each.ret_ty) for var, each in network.functions.items() if var.name_hint == PREPARE)
        return cls(workspace, sum(constants.values()), prepared)


def visited(function: relax.Function, kind: type) -> list:
    """The function's expressions of that class."""
    found = []
    relax.analysis.post_order_visit(function, lambda expr: found.append(expr) if isinstance(expr, kind) else None)
    return found


def bytes_of(ty: relax.Type) -> int:
    """Size of a tensor, or of a tuple of them, by its Relax type."""
    if hasattr(ty, "fields"):
        return sum(bytes_of(field) for field in ty.fields)
    return prod(int(extent) for extent in ty.shape) * ty.dtype.dtype.itemsize
