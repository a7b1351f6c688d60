"""Makes the steps of a network one function that calls the kernels itself.

Memory once planned, a network is a list of calls whose arguments are known places: inputs, constants, and bytes of one
workspace. TVM's virtual machine takes 1 to 3 us for each of them, boxes its arguments, and makes objects of the
tensors between. A function of TIR calls them with plain pointers, in some nanoseconds.

    main(x, u):  s = storage; a = tensor of s; conv(x, w, a); ...; y = tensor; dense(a, v, y)   ->
    main(x, u):  main_inputs(x); workspace = storage; y = tensor; main_steps(x, w, v, workspace, y)
    main_timed(x, u, times): the same, with the time before each step and after the last in `times`

Behind them all stand the functions that look for inputs which are not finite (`nonfinite/guard.py`).

What is anything else, a builtin of the machine's that is no view or a call of another function, stays a step of the
machine's, and divides the calls around it into two such functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tvm_ffi
from tvm import IRModule, ir, relax, tirx
from tvm.ir import GenericConst, GlobalVar
from tvm.relax.expr import _update_type as update_type
from tvm.relax.op import vm
from tvm.relax.utils import copy_with_new_vars
from tvm.tirx import PrimFunc

from tvm_sched.passes.graph.hoist_constants import INPUTS, mains
from tvm_sched.passes.graph.relax_tools import is_op
from tvm_sched.passes.nonfinite.guard import guard_function
from tvm_sched.passes.nonfinite.skipped import guards
from tvm_sched.passes.tir.direct_calls import ALIGNMENT, DirectCall, steps_function
from tvm_sched.passes.tir.marks import DIRECT, INTERNAL, SCHEDULED
from tvm_sched.planning.explain import TIMED

SYMBOL = "global_symbol"
RESHAPE = "vm.builtin.reshape"
CHECKS = ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")

Steps = dict[str, list[list[str]]]  # by the name of a 'main' the functions that each of its runs of calls calls
Place = tuple[relax.Expr | None, int]  # a tensor of the machine's, or the workspace, and bytes behind its start


@dataclass
class Run:
    """Calls that follow one another: a function, and where its arguments lie."""

    calls: list[tuple[GlobalVar, list[Place]]] = field(default_factory=list)

    @property
    def bases(self) -> list[relax.Expr | None]:
        """The tensors that places are counted from, each once."""
        return list(dict.fromkeys(base for _, places in self.calls for base, _ in places))

    @property
    def names(self) -> list[str]:
        """The functions'."""
        return [function.name_hint for function, _ in self.calls]

    def direct(self, functions: Mapping[GlobalVar, GlobalVar]) -> list[DirectCall]:
        """The calls on parameters for `bases`, of what each of the `functions` is called directly by."""
        which = {base: number for number, base in enumerate(self.bases)}
        return [
            DirectCall(functions[function], tuple((which[base], offset) for base, offset in places))
            for function, places in self.calls
        ]


def call_directly(mod: IRModule) -> tuple[IRModule, Steps]:
    """The module, whose memory must be planned, and calls be the virtual machine's; and what its runs of calls call."""
    public = [main for main in mains(mod) if main.attrs and SYMBOL in main.attrs]
    straight = {mod.get_global_var(str(main.attrs[SYMBOL])): Straight(main, mod) for main in public}
    others = {var: function for var, function in mod.functions.items() if var not in straight}
    stepwise = [function.body for function in others.values() if isinstance(function, relax.Function)]
    stepwise += [item.value for each in straight.values() for item in each.items if not isinstance(item, Run)]
    boxed = set(functions_in(stepwise))
    guards = {var: function for each in straight.values() for var, function in each.guards.items()}
    known = {**mod.functions, **guards}
    called = {function for each in straight.values() for run in each.runs for function, _ in run.calls}
    # What is called in both ways is there twice.
    direct = {var: GlobalVar(f"{var.name_hint}_direct") if var in boxed else var for var in called}
    made = {var: mod[var].with_attr(INTERNAL, True) for var in boxed if isinstance(mod[var], PrimFunc)}
    made |= {new: known[var].with_attrs({DIRECT: True, SYMBOL: new.name_hint}) for var, new in direct.items()}
    for var, each in straight.items():
        made |= each.functions(var, direct)
    steps = {var.name_hint: [run.names for run in each.runs] for var, each in straight.items()}
    return IRModule(others | made, attrs=mod.attrs), steps


class Straight:
    """A 'main' whose calls of kernels are gathered into runs."""

    def __init__(self, main: relax.Function, mod: IRModule):
        self.main, self.mod = main, mod
        self.bindings = [binding for block in main.body.blocks for binding in block.bindings]
        self.given = main.params[: int((main.attrs or {}).get(INPUTS, len(main.params)))]
        self.kept = self.objects()
        self.workspace = 0  # bytes
        self.places: dict[relax.Var, Place] = {}
        self.items: list[relax.Binding | Run] = []
        for binding in self.bindings:
            self.take(binding)
        self.guards: dict[GlobalVar, PrimFunc] = {}
        self.guard()

    @property
    def runs(self) -> list[Run]:
        """The runs of calls, in order."""
        return [item for item in self.items if isinstance(item, Run)]

    def objects(self) -> set[relax.Var]:
        """The variables that must remain objects of the machine's: results, what other steps than calls of kernels
        take, and what these are views of, tensors of, or made of.
        """
        makers = {binding.var: binding.value for binding in self.bindings}
        waiting = [self.main.body.body, *(value for value in makers.values() if self.is_other(value))]
        kept: set[relax.Var] = set()
        while waiting:
            for var in relax.analysis.free_vars(waiting.pop()):
                if var in makers and var not in kept:
                    kept.add(var)
                    waiting.append(makers[var])
        return kept | {
            var for var, value in makers.items() if is_op(value, "relax.vm.alloc_tensor") and value.args[0] in kept
        }

    def is_kernel(self, value: relax.Expr) -> bool:
        """Whether it is a call of a function of TIR on tensors of static shapes alone."""
        if not isinstance(value, relax.Call) or not isinstance(value.op, GlobalVar):
            return False
        function = self.mod[value.op]
        return (
            isinstance(function, PrimFunc)
            and len(function.params) == len(value.args)
            and all(map(begins_at_its_pointer, function.params))
            and not calls_packed(function)
            and all(isinstance(arg, relax.Var | GenericConst) and is_static(arg) for arg in value.args)
        )

    def is_other(self, value: relax.Expr) -> bool:
        """Whether it is a step that stays as it is."""
        known = ("relax.vm.alloc_storage", "relax.vm.alloc_tensor", "relax.vm.kill_object", "relax.null_value")
        return not (
            any(is_op(value, name) for name in known)
            or self.is_kernel(value)
            or calls(value, RESHAPE, *CHECKS)
            or isinstance(value, relax.Tuple)
        )

    def take(self, binding: relax.Binding) -> None:
        """The next binding."""
        var, value = binding.var, binding.value
        if self.is_kernel(value):
            if not self.items or not isinstance(self.items[-1], Run):
                self.items.append(Run())
            self.items[-1].calls.append((value.op, [self.places.get(arg, (arg, 0)) for arg in value.args]))
            return
        if calls(value, RESHAPE):
            self.places[var] = self.places.get(value.args[0], (value.args[0], 0))
        elif is_op(value, "relax.vm.alloc_storage") and var not in self.kept:
            self.places[var] = (None, self.workspace)
            self.workspace += -(-int(value.args[0].values[0]) // ALIGNMENT) * ALIGNMENT
        elif is_op(value, "relax.vm.alloc_tensor") and var not in self.kept:
            base, offset = self.places[value.args[0]]
            self.places[var] = (base, offset + int(value.args[1]))
        stays = self.is_other(value) or is_op(value, "relax.null_value") or self.is_check(value)
        if stays or var in self.kept:
            self.emit(binding, behind=self.is_other(value))

    def guard(self) -> None:
        """Calls, behind all others, what makes outputs NaN where an input is not finite that layers skip. Constants and
        inputs that are given back are left alone.
        """
        result = self.main.body.body
        makers = {binding.var: binding.value for binding in self.bindings}
        made = makers.get(result, result)
        outputs = list(made.fields) if isinstance(made, relax.Tuple) else [result]
        found = guards(self.main)
        for number in sorted({each.input for each in found}):
            of_input = [each for each in found if each.input == number and self.is_made(outputs[each.output])]
            if not of_input:
                continue
            function = GlobalVar(f"{self.main.attrs[SYMBOL]}_guard{number or ''}")
            x, made_of = self.main.params[number], [outputs[each.output] for each in of_input]
            self.guards[function] = guard_function(function.name_hint, x, list(zip(of_input, made_of, strict=True)))
            if not self.items or not isinstance(self.items[-1], Run):
                self.items.append(Run())
            self.items[-1].calls.append((function, [self.places.get(each, (each, 0)) for each in (x, *made_of)]))

    def is_made(self, output: relax.Expr) -> bool:
        """Whether an output of static shape lies in memory of its own."""
        base, _ = self.places.get(output, (output, 0))
        makers = {binding.var: binding.value for binding in self.bindings}
        return is_static(output) and is_op(makers.get(base), "relax.vm.alloc_tensor")

    def emit(self, binding: relax.Binding, behind: bool) -> None:
        """Keeps a binding, `behind` the calls before it; else before them, as what makes objects computes nothing."""
        if not behind and self.items and isinstance(self.items[-1], Run):
            self.items.insert(-1, binding)
        else:
            self.items.append(binding)

    def is_check(self, value: relax.Expr) -> bool:
        """Whether it tests an input which `inputs_function` cannot; what 'prepare' gives needs no test."""
        return calls(value, *CHECKS) and any(
            value.args[0].same_as(param) and not is_static(param) for param in self.given
        )

    def functions(
        self, main: GlobalVar, direct: Mapping[GlobalVar, GlobalVar]
    ) -> dict[GlobalVar, relax.Function | PrimFunc]:
        """The new 'main', the one that tells times, and the functions that they call."""
        name = main.name_hint
        tensors = [param for param in self.given if is_static(param)]
        tests = GlobalVar(f"{name}_inputs")
        head = [step(tests, tensors)] if tensors else []
        made: dict[GlobalVar, relax.Function | PrimFunc] = (
            {tests: inputs_function(tests.name_hint, tensors)} if head else {}
        )
        points = sum(len(run.calls) + 1 for run in self.runs)
        times = relax.Var("times", relax.TensorType([points, 2], "int64"))
        for var, extra in ((main, ()), (GlobalVar(name + TIMED), (times,))):
            bindings, runs = self.steps(var.name_hint, extra, direct)
            made |= runs
            made[var] = self.with_body([*head, *bindings], var.name_hint, extra)
        return made

    def steps(
        self, name: str, times: tuple[relax.Var, ...], direct: Mapping[GlobalVar, GlobalVar]
    ) -> tuple[list[relax.Binding], dict[GlobalVar, PrimFunc]]:
        """The bindings of a 'main' of that name, which may take `times`, and the functions of its runs."""
        space = relax.Var("space", relax.ObjectType())
        workspace = relax.Var("workspace", relax.TensorType([self.workspace], "uint8"))
        bindings: list[relax.Binding] = []
        if self.workspace:
            storage = vm.alloc_storage(relax.ShapeExpr([self.workspace]), 0, "uint8")
            tensor = vm.alloc_tensor(space, 0, relax.ShapeExpr([self.workspace]), "uint8")
            bindings = [relax.VarBinding(space, storage), relax.VarBinding(workspace, tensor)]
        made: dict[GlobalVar, PrimFunc] = {}
        point = 0
        for item in self.items:
            if not isinstance(item, Run):
                bindings.append(item)
                continue
            function = GlobalVar(f"{name}_steps{len(made) or ''}")
            taken = [workspace if base is None else base for base in item.bases] + list(times)
            made[function] = steps_function(
                function.name_hint, len(item.bases), item.direct(direct), point if times else None
            )
            bindings.append(step(function, taken))
            point += len(item.calls) + 1
        return bindings, made

    def with_body(self, bindings: Sequence[relax.Binding], name: str, more: Sequence[relax.Var]) -> relax.Function:
        """'main' by that name with these bindings, and `more` parameters."""
        main = self.main
        body = relax.SeqExpr([relax.BindingBlock(bindings)], main.body.body)
        made = relax.Function([*main.params, *more], body, main.ret_ty, main.is_pure, main.attrs)
        return (copy_with_new_vars(made) if more else made).with_attr(SYMBOL, name)


def functions_in(expressions: Iterable[relax.Expr]) -> list[GlobalVar]:
    """The functions of the module that these expressions call."""
    found: list[GlobalVar] = []
    for expression in expressions:
        relax.analysis.post_order_visit(
            expression, lambda expr: found.append(expr) if isinstance(expr, GlobalVar) else None
        )
    return found


def inputs_function(name: str, inputs: Sequence[relax.Var]) -> PrimFunc:
    """A function that does nothing but what TVM begins every function with: tests of its arguments."""
    return PrimFunc(buffers(inputs), tirx.Evaluate(tirx.const(0, "int32"))).with_attrs({SYMBOL: name, SCHEDULED: True})


def buffers(tensors: Sequence[relax.Expr]) -> list[tirx.Var]:
    """Parameters of a function of TIR for these tensors."""
    return [
        tirx.decl_buffer([int(extent) for extent in tensor.ty.shape], str(tensor.ty.dtype), f"b{number}")
        for number, tensor in enumerate(tensors)
    ]


def step(function: GlobalVar, arguments: Sequence[relax.Expr]) -> relax.Binding:
    """A call for its effect."""
    nothing = relax.TupleType([])
    update_type(function, relax.FuncType([argument.ty for argument in arguments], nothing, False))
    return relax.VarBinding(relax.Var("_", nothing), relax.Call(function, list(arguments), ret_ty=nothing))


def is_static(tensor: relax.Expr) -> bool:
    """Whether it is a tensor whose extents are known."""
    ty = tensor.ty
    return (
        isinstance(ty, relax.TensorType)
        and isinstance(ty.shape, relax.ShapeExpr)
        and all(isinstance(extent, tirx.IntImm) for extent in ty.shape)
    )


def begins_at_its_pointer(parameter: tirx.Var) -> bool:
    """Whether a function takes a buffer that lies in one piece from its pointer on: others tell TVM's own operators,
    such as a sort, by numbers that come with the tensor.
    """
    buffer = parameter.ty
    offset = getattr(buffer, "elem_offset", None)
    strides = getattr(buffer, "strides", None) or ()
    return (offset is None or isinstance(offset, tirx.IntImm)) and all(isinstance(s, tirx.IntImm) for s in strides)


def calls_packed(function: PrimFunc) -> bool:
    """Whether it calls a function of TVM's by TVM's convention, as a sort does."""
    names: set[str] = set()

    def see(call: ir.Call) -> None:
        names.add(getattr(call.op, "name", ""))

    tvm_ffi.structural_walk(function.body, (ir.Call, see), order="post")
    return any(name.startswith(("tirx.tvm_call_packed", "tirx.tvm_call_cpacked")) for name in names)


def calls(value: relax.Expr, *names: str) -> bool:
    """Whether it is a call of a builtin of the virtual machine's by one of these names."""
    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, relax.ExternFunc)
        and str(value.op.global_symbol) in names
    )
