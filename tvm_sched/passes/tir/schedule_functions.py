"""Gives every TIR function its schedule: a record's, or its kernel's analytic default, or the generic one.

Schedules are written for what fusion makes today, and meet what it makes tomorrow. A schedule that fails does not end
the compilation: a kernel's function is taken apart until its schedule takes it, and where the generic rules fail, the
function keeps plain loops. Both are told in words.
"""

from dataclasses import dataclass, field, replace

import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from tvm_sched.kernels import TRANSFORMATIONS, kernel_of, seen_by
from tvm_sched.kernels.base import kernel_name
from tvm_sched.kernels.generic import plain, rules
from tvm_sched.kernels.rewrites.loops import worth_threads
from tvm_sched.passes.graph.layer_names import emit_layer, layer_of
from tvm_sched.passes.graph.relax_tools import is_op, rewritten
from tvm_sched.passes.tir.marks import SCHEDULED
from tvm_sched.passes.tir.take_apart import Halves, halves
from tvm_sched.records.recorded import KnownRecords
from tvm_sched.records.wide_twin import wide_twin
from tvm_sched.targets import Target

PLAIN = "plain loops"  # begins the words of a function that no rule takes
ON_ONE_THREAD = ", on one thread"  # ends the words of a kernel so small that threads would cost more than they save
APART = "; epilogue apart"  # ends the words of a kernel that its schedule took without it


def schedule_functions(mod: IRModule, target: Target, records: KnownRecords | None) -> tuple[IRModule, dict[str, str]]:
    """(the module, how each kernel's tile was set, by the function's name), each function scheduled on its own. Of
    functions that hold no kernel of ours only those have words that the generic rules failed on.
    """
    scheduler = Scheduler(target, records)
    for var, func in mod.functions_items():
        if isinstance(func, PrimFunc) and not relax.analysis.has_reshape_pattern(func):
            scheduler.schedule(var.name_hint, func)  # a reshape copies nothing: it becomes a view
    if scheduler.apart:
        mod = rewritten(_Caller(mod, scheduler), mod)
    scheduled = {
        var: scheduler.functions.get(var.name_hint, func)
        for var, func in mod.functions_items()
        if var.name_hint not in scheduler.apart
    }
    return IRModule(scheduled, attrs=mod.attrs), scheduler.words


@dataclass
class Scheduler:
    """Schedules functions one by one, and keeps them by their names."""

    target: Target
    records: KnownRecords | None
    functions: dict[str, PrimFunc] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    apart: dict[str, Halves] = field(default_factory=dict)  # functions that have become two

    def schedule(self, name: str, func: PrimFunc) -> None:
        """Schedules one function, by all means."""
        try:
            self.keep(name, func, *schedule_one(func, self.target, self.records))
        except Exception as error:  # of any kind: TVM's primitives have many ways to stop
            if kernel_of(func) is None:
                self.keep_plain(name, func, error)
            else:
                self.take_apart(name, func, error)

    def take_apart(self, name: str, func: PrimFunc, error: Exception) -> None:
        """Finds the longest beginning of a kernel's function that its schedule takes; raises `error` if none is."""
        for cut in halves(func):
            try:
                sch, words = schedule_one(cut.first, self.target, self.records)
            except Exception:  # as above
                continue
            self.keep(first_of(name), cut.first, sch, words + APART)
            self.schedule(rest_of(name), cut.rest)
            self.apart[name] = cut
            return
        raise error

    def keep_plain(self, name: str, func: PrimFunc, error: Exception) -> None:
        """The function with plain loops."""
        sch = Schedule(IRModule({"main": func}))
        plain.schedule(sch, self.target)
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        self.keep(name, func, sch, f"{PLAIN}: {reason}")

    def keep(self, name: str, func: PrimFunc, sch: Schedule, words: str) -> None:
        """Notes what a schedule made of a function."""
        if words:
            self.words[name] = words
        made = sch.mod["main"]
        bare = PrimFunc(made.params, made.body, made.ret_type)  # a record's function has a name of its own
        self.functions[name] = bare.with_attrs(dict(func.attrs) | {SCHEDULED: True})


def first_of(name: str) -> str:
    """The name of the first half of a function."""
    return f"{name}_first"


def rest_of(name: str) -> str:
    """The name of the second half of a function."""
    return f"{name}_rest"


@mutator
class _Caller(PyExprMutator):
    """Calls the halves of functions that were taken apart."""

    def __init__(self, mod: IRModule, scheduler: Scheduler):
        super().__init__(mod)
        self.apart = scheduler.apart
        self.halves = {
            name: [self.builder_.add_func(scheduler.functions[half], half) for half in (first_of(name), rest_of(name))]
            for name in self.apart
        }
        self.bound = None  # the variable whose value is being visited

    def visit_var_binding_(self, binding):
        self.bound = binding.var
        super().visit_var_binding_(binding)

    def visit_call_(self, call):
        call = super().visit_call_(call)
        if not is_op(call, "relax.call_tir") or call.args[0].name_hint not in self.apart:
            return call
        function, args = call.args
        cut, (first, rest) = self.apart[function.name_hint], self.halves[function.name_hint]
        ty = relax.TensorType([int(extent) for extent in cut.between.shape], str(cut.between.dtype))
        made = relax.call_tir(first, [args[i] for i in cut.of_first], ty)
        between = emit_layer(self.builder_, made, layer_of(self.bound))
        return relax.call_tir(rest, [*(args[i] for i in cut.of_rest), between], call.ty)


def schedule_one(func: PrimFunc, target: Target, records: KnownRecords | None) -> tuple[Schedule, str]:
    """(schedule, how the tile was set, in words); the words are empty for functions that hold no kernel of ours."""
    sch, kernel, target = Schedule(IRModule({"main": func})), kernel_of(func), seen_by(func, target)
    if kernel is None:
        if transform := TRANSFORMATIONS.get(kernel_name(func)):
            transform(sch, target)
        elif takes_int64(func):
            rules.inline(sch)
            plain.schedule(sch, target)
        else:
            rules.schedule(sch, target)
        return sch, ""
    if records is not None and (recorded := records.lookup(func)) is not None:
        return recorded.schedule, recorded.words
    # With 16-bit weights the tiles of float32 ones: reading weights often would cost less by estimate, not in fact.
    twin = wide_twin(func)
    problem = kernel.problem(sch if twin is None else Schedule(IRModule({"main": twin})))
    one_core = replace(target, cores=1)
    tile = kernel.tiles(problem, target)[0]
    if worth_threads(kernel.cycles(problem, tile, one_core), target):
        kernel.schedule(sch, tile, target)
        return sch, f"default: {tile}"
    tile = kernel.tiles(problem, one_core)[0]
    kernel.schedule(sch, tile, one_core)
    return Schedule(IRModule({"main": on_one_thread(sch.mod["main"])})), f"default: {tile}{ON_ONE_THREAD}"


def on_one_thread(func: PrimFunc) -> PrimFunc:
    """A scheduled function whose parallel loops are serial."""

    def serial(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(
            loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body, annotations=loop.annotations
        )

    return tvm_ffi.structural_map(func, (tirx.For, serial))


def takes_int64(func: PrimFunc) -> bool:
    """Whether some of the function's data are int64: then its loops are too, on which TVM's loop partition fails. Such
    a function keeps them, but for what is computed where it is read.
    """
    return any(param.dtype == "int64" for param in func.params)
