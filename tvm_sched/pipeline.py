"""The way from an imported network to machine code, as one list of numbered phases.

`subp compile --dump DIR` writes the module after each of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import tvm
from tvm import IRModule, relax

from subp_contract.errors import UserError, first_line
from tvm_sched import codegen
from tvm_sched.codegen import Memory, Observer
from tvm_sched.frontend.torch_export import Imported
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.passes.graph.broadcasts_apart import broadcasts_apart
from tvm_sched.passes.graph.call_directly import Steps, call_directly
from tvm_sched.passes.graph.channels_last import channels_last
from tvm_sched.passes.graph.fold_batch_norm import fold_batch_norm
from tvm_sched.passes.graph.fold_constants import fold_constants
from tvm_sched.passes.graph.hoist_constants import PREPARE, hoist_constants
from tvm_sched.passes.graph.join_shapes import Joined, join_shapes
from tvm_sched.passes.graph.layer_names import layer_of, name_output
from tvm_sched.passes.graph.legalize import legalize
from tvm_sched.passes.graph.relax_tools import is_kernel_call, weight_bytes
from tvm_sched.passes.graph.select_kernels import Choices, select_kernels
from tvm_sched.passes.graph.share_functions import share_functions
from tvm_sched.passes.graph.write_in_place import write_in_place
from tvm_sched.passes.integer.integer_layers import integer_layers
from tvm_sched.passes.integer.left import Left
from tvm_sched.passes.nonfinite.skipped import with_guards
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.narrow_indices import narrow_indices
from tvm_sched.passes.tir.schedule_functions import schedule_functions
from tvm_sched.passes.tir.vector_math import vector_math
from tvm_sched.planning.explain import IN_PLACE, ZEROS, LayerChoice
from tvm_sched.planning.plan import EXACT_WEIGHTS, FREE, Chooser, Restrictions, chooser
from tvm_sched.planning.sharing import SharedCall, parallel_loops
from tvm_sched.precision import FLOAT32, Precision
from tvm_sched.records.recorded import KnownRecords
from tvm_sched.targets import Target, sizes

IMPORTED, MACHINE_CODE = "imported", "machine_code"  # what an observer sees before the first phase and after the last


@dataclass
class Compilation:
    """What is known beside the module: what was asked for, and what the phases leave for the reader."""

    target: Target
    records: KnownRecords | None = None
    dense: bool = False  # zeros are ignored
    observe: Observer | None = None  # sees the module after each phase
    restrictions: Restrictions = FREE  # of the layers' kernels
    precision: Precision = FLOAT32
    wide: Mapping[str, str] = field(default_factory=dict)  # layers that stay in float32 where others do not -> why
    weights: str = sizes.FLOAT32  # dtype in which layers store theirs where that is not slower
    choose: Chooser | None = None  # of the layers' plans; by default what the records know of, else the estimates
    reached: Callable[[str], None] = lambda phase: None  # told each phase that is behind
    left: Left = field(default_factory=Left)  # what of a quantised network is in float32
    choices: Choices = field(default_factory=dict)  # of layers, by their marks
    schedules: dict[str, str] = field(default_factory=dict)  # how a function's tile was set, by the function's name
    memory: Memory | None = None
    steps: Steps = field(default_factory=dict)  # what each 'main' calls

    @property
    def chosen_by(self) -> Chooser:
        """What chooses the layers' plans."""
        return self.choose or (chooser(None) if self.records is None else self.records.chooser())


@dataclass(frozen=True)
class Phase:
    """A step from module to module."""

    name: str
    run: Callable[[IRModule, Compilation], IRModule]


SIMPLIFY = tvm.transform.Sequential(
    [fold_constants, name_output, relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
)
FUSE = tvm.transform.Sequential(
    [
        legalize,
        relax.transform.AnnotateTIROpPattern(),
        broadcasts_apart,
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
)
FOR_SCHEDULES = tvm.transform.Sequential([each(vector_math), each(narrow_indices)])


def narrow(mod: IRModule, compilation: Compilation) -> IRModule:
    """Phase 4."""
    within = compilation.precision.within
    return SIMPLIFY(within(mod, compilation.wide)) if within else mod


def select(mod: IRModule, compilation: Compilation) -> IRModule:
    """Phase 6."""
    restrictions, weights = compilation.restrictions, compilation.precision.weights or compilation.weights
    if compilation.precision.weights:  # what is in float32 for its rounding has exact weights
        exact = dict.fromkeys(compilation.wide, EXACT_WEIGHTS)
        restrictions = replace(restrictions, layers={**exact, **restrictions.layers})
    selected, choices = select_kernels(
        mod, compilation.target, compilation.dense, restrictions, compilation.chosen_by, weights
    )
    wide = {**compilation.wide, **compilation.left.layers}
    compilation.choices = {
        mark: replace(choice, why=f"{choice.why}; {wide[choice.name]}") if choice.name in wide else choice
        for mark, choice in choices.items()
    }
    return with_guards(mod, selected, {choice.name for choice in choices.values() if choice.density < 1})


def schedule(mod: IRModule, compilation: Compilation) -> IRModule:
    """Phase 10."""
    mod, compilation.schedules = schedule_functions(mod, compilation.target, compilation.records)
    return mod


def plan_memory(mod: IRModule, compilation: Compilation) -> IRModule:
    """Phase 13."""
    planned = relax.get_pipeline("default_build")(mod)
    compilation.memory = Memory.of(mod, planned)
    return planned


def direct(mod: IRModule, compilation: Compilation) -> IRModule:
    """Phase 14."""
    mod, compilation.steps = call_directly(mod)
    return mod


FUSING = (
    # 1. Quantised layers in integers.
    Phase("integer_layers", lambda mod, each: integer_layers(mod, dot_of(each.target).activation, each.left)),
    # 2. Constants folded, bindings canonical, nothing dead.
    Phase("simplify", lambda mod, _: SIMPLIFY(mod)),
    # 3. Batch norms are folded into the convolutions before them.
    Phase("fold_batch_norm", lambda mod, _: fold_batch_norm(mod)),
    # 4. Numbers become those of the precision that was asked for.
    Phase("narrow_numbers", narrow),
    # 5. Activations are stored channels last.
    Phase("channels_last", lambda mod, _: SIMPLIFY(channels_last(mod))),
    # 6. Each layer gets its kernel, its weight packed.
    Phase("select_kernels", select),
    # 7. Operators become TIR functions; elementwise chains go into the kernels before them.
    Phase("fuse", lambda mod, _: FUSE(mod)),
    # 8. Marks become attributes and names; equal functions become one.
    Phase("share_functions", lambda mod, _: share_functions(mod)),
    # 9. exp and its like as polynomials, indices in int32.
    Phase("for_schedules", lambda mod, _: FOR_SCHEDULES(mod)),
)
SCHEDULING = (
    # 10. Each function gets its schedule.
    Phase("schedule_functions", schedule),
    # 11. What depends on weights alone is computed when the network is loaded.
    Phase("hoist_constants", lambda mod, _: hoist_constants(mod)),
    # 12. Results go over operands that are not needed any more.
    Phase("write_in_place", lambda mod, _: write_in_place(mod)),
)
BUILDING = (
    # 13. TVM's own: calls become the virtual machine's, memory is planned statically.
    Phase("plan_memory", plan_memory),
    # 14. Steps become one function that calls the kernels with pointers.
    Phase("call_directly", direct),
)
# 15 to 31 are codegen's; machine code comes last.
PHASES = (*FUSING, *SCHEDULING, *BUILDING, *codegen.PHASES)
REPORTED = (*(phase.name for phase in (*FUSING, *SCHEDULING, *BUILDING)), MACHINE_CODE)  # as `reached`


def run(phases: tuple[Phase, ...], mod: IRModule, compilation: Compilation) -> IRModule:
    """The module after these phases."""
    with compilation.target.tvm():
        for phase in phases:
            with told(f"phase '{phase.name}'"):
                mod = phase.run(mod, compilation)
            compilation.reached(phase.name)
            if compilation.observe:
                compilation.observe(phase.name, mod)
    return mod


@contextmanager
def told(step: str) -> Iterator[None]:
    """Turns an error of any kind, of TVM's or of ours, into a UserError that names the step; the error is its cause."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{step} of this compiler fails on this network: {first_line(error)}; a fault of this compiler, please "
            "report it with the network"
        ) from error


def fused(imported: Imported, compilation: Compilation) -> IRModule:
    """Phases 1 to 9: the network as calls of fused, not yet scheduled functions. These are what tuning measures."""
    read = weight_bytes(imported.mod["main"], compilation.dense)
    compilation.target = replace(compilation.target, network_bytes=read)
    if compilation.observe:
        compilation.observe(IMPORTED, imported.mod)
    return run(FUSING, imported.mod, compilation)


@dataclass(frozen=True)
class Lowered:
    """Every function scheduled; for the reader, what was chosen for each layer; the function to call first, if there is
    one; how threads share each call; what there is to say besides.
    """

    mod: IRModule
    choices: list[LayerChoice]
    prepare: str | None
    calls: list[SharedCall]  # of 'main', in order
    remarks: list[str]


def lower(imported: Imported, compilation: Compilation) -> Lowered:
    """Phases 1 to 12: 'main' takes the input and what 'prepare', where there is one, returns."""
    mod = run(SCHEDULING, fused(imported, compilation), compilation)
    prepare = PREPARE if PREPARE in {var.name_hint for var in mod.get_global_vars()} else None
    parts = imported.parts  # one of which the module computes, and all of which the choices tell of
    choices = [
        replace(choice, macs=choice.macs * parts, kept_macs=choice.kept_macs * parts)
        for choice in with_calls(mod, compilation)
    ]
    return Lowered(mod, choices, prepare, shared_calls(mod), compilation.left.remarks)


def build(mod: IRModule, compilation: Compilation) -> relax.VMExecutable:
    """Phases 13 to the last: TVM's executable of a lowered network; `compilation.memory` tells what it takes."""
    planned = run(BUILDING, mod, compilation)
    with told("code generation"):
        executable = codegen.build(planned, compilation.target, compilation.observe)
    compilation.reached(MACHINE_CODE)
    if compilation.observe:
        compilation.observe(MACHINE_CODE, codegen.assembly(executable))
    return executable


@dataclass(frozen=True)
class Built:
    """A network as code: TVM's executable, what it was lowered to, the memory that it takes, and what it calls."""

    executable: relax.VMExecutable
    lowered: Lowered
    memory: Memory
    steps: Steps


def build_network(imported: Imported, compilation: Compilation) -> Built:
    """All phases. What they leave in `compilation` is begun anew."""
    compilation.choices, compilation.schedules, compilation.memory, compilation.steps = {}, {}, None, {}
    compilation.left = Left()
    lowered = lower(imported, compilation)
    executable = build(lowered.mod, compilation)
    assert compilation.memory is not None  # `build` has planned it
    return Built(executable, lowered, compilation.memory, compilation.steps)


def build_shapes(builts: Sequence[Built], compilation: Compilation) -> tuple[relax.VMExecutable, Joined, Memory, Steps]:
    """The executable of one network built for several shapes, what has become of each, what all take together, and what
    they call.
    """
    joined = join_shapes([built.lowered.mod for built in builts])
    executable = build(joined.mod, compilation)
    assert compilation.memory is not None  # `build` has planned it
    return executable, joined, compilation.memory, compilation.steps


def with_calls(mod: IRModule, compilation: Compilation) -> list[LayerChoice]:
    """The choices with their schedules, and the calls that compute them."""
    found: dict[str, dict] = {}
    calls: Counter[str] = Counter()
    for binding in kernel_bindings(mod):
        name = binding.value.args[0].name_hint.removesuffix(IN_PLACE)
        mark = layer_of(binding.var)
        if mark and name in compilation.schedules:  # else a product that is no layer, as those in attention
            # A second function of the layer's holds what its schedule left.
            found[mark] = found.get(mark) or {
                "schedule": compilation.schedules[name],
                "function": name,
                "call": calls[name],
            }
        calls[name] += 1
    lost = {"schedule": "none: folded away"}
    return [
        choice if choice.kernel == ZEROS else replace(choice, **found.get(mark, lost))
        for mark, choice in compilation.choices.items()
    ]


def shared_calls(mod: IRModule) -> list[SharedCall]:
    """How threads share each call of a scheduled function in 'main'."""
    called = [binding.value.args[0] for binding in kernel_bindings(mod)]
    loops = {var: tuple(parallel_loops(mod[var])) for var in set(called)}
    return [SharedCall(var.name_hint.removesuffix(IN_PLACE), loops[var]) for var in called]


def kernel_bindings(mod: IRModule) -> list[relax.Binding]:
    """The calls of TIR functions in 'main', in order."""
    bindings = (binding for block in mod["main"].body.blocks for binding in block.bindings)
    return [binding for binding in bindings if is_kernel_call(binding.value)]
