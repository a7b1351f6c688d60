"""From an imported network to a module that is ready for code generation, as one list of numbered phases."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from math import prod

import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.tirx import PrimFunc

from tvm_sched.frontend.torch_export import Imported
from tvm_sched.passes.graph.broadcasts_apart import broadcasts_apart
from tvm_sched.passes.graph.channels_last import channels_last
from tvm_sched.passes.graph.constants import is_op
from tvm_sched.passes.graph.fold_batch_norm import fold_batch_norm
from tvm_sched.passes.graph.fold_constants import fold_constants
from tvm_sched.passes.graph.hoist_constants import PREPARE, hoist_constants
from tvm_sched.passes.graph.legalize import legalize
from tvm_sched.passes.graph.select_kernels import Selection, select_kernels
from tvm_sched.passes.graph.write_in_place import write_in_place
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.schedule_functions import (
    Scheduled,
    schedule_functions,
    takes_int64,
)
from tvm_sched.passes.tir.vector_math import with_vector_math
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.records.database import Records
from tvm_sched.targets import Target


def with_narrow_indices(func: PrimFunc) -> PrimFunc:
    """The function with loops and shapes in int32 where its data allow: what schedules and vector units want, and Relax
    does not give.
    """
    return func if takes_int64(func) else tvm.tirx.transform.ForceNarrowIndexToInt32()(IRModule({"main": func}))["main"]


CLEAN = tvm.transform.Sequential(
    [fold_constants, relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
)
FUSE = tvm.transform.Sequential(
    [
        legalize,
        relax.transform.AnnotateTIROpPattern(),
        broadcasts_apart,
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        each(with_vector_math),
        each(with_narrow_indices),
    ]
)


@dataclass(frozen=True)
class Lowered:
    """Every function scheduled; for the reader, what was chosen for each layer; the function to call first, if there is
    one.
    """

    mod: IRModule
    choices: list[LayerChoice]
    prepare: str | None


def fused(imported: Imported, target: Target, dense: bool = False) -> Selection:
    """Phases 1 to 5: the network as calls of fused, not yet scheduled functions. These are what tuning measures."""
    with target.tvm():
        # 1. Simplify.
        mod = CLEAN(imported.mod)
        # 2. Fold batch norms into convolutions.
        mod = fold_batch_norm(mod)
        # 3. Channels last.
        mod = CLEAN(channels_last(mod))
        # 4. A kernel for each layer, its weight packed.
        selection = select_kernels(mod, target, imported.layers, ignore_zeros=dense)
        # 5. Lower to TIR functions; elementwise chains go into the kernels before them.
        return replace(selection, mod=FUSE(selection.mod))


def lower(imported: Imported, target: Target, records: Records | None = None, dense: bool = False) -> Lowered:
    """Phases 1 to 7: 'main' takes the input and what 'prepare', where there is one, returns."""
    selection = fused(imported, target, dense)
    with target.tvm():
        # 6. A schedule for each function.
        scheduled = schedule_functions(selection.mod, target, records)
        # 7. What depends on weights alone is computed when the network is loaded; results go over operands that are not
        # needed any more.
        mod = write_in_place(hoist_constants(scheduled.mod))
    prepare = PREPARE if PREPARE in {var.name_hint for var in mod.get_global_vars()} else None
    parts = imported.parts  # one of which the module computes, and all of which the choices tell of
    choices = [
        replace(each, macs=each.macs * parts, kept_macs=each.kept_macs * parts)
        for each in with_calls(selection, scheduled)
    ]
    return Lowered(mod, choices, prepare)


def with_calls(selection: Selection, scheduled: Scheduled) -> list[LayerChoice]:
    """The choices with their schedules, calls and costs. Fusion reorders calls, so a layer is known by the constant
    that holds its weight; of calls that share one, the first tells of what is stored.
    """
    found, made_of, calls = defaultdict(list), {}, Counter()
    for binding in kernel_bindings(scheduled.mod):
        function, args = binding.value.args[:2]
        weights = [arg.value for arg in args if isinstance(arg, GenericConst)] + [
            w for arg in args for w in made_of.get(arg, ())
        ]
        name = function.name_hint
        if name in scheduled.knobs:
            layer = {"schedule": scheduled.knobs[name], "function": name, "call": calls[name]}
            for weight in weights:
                found[weight].append(layer | {"weights": 0 if found[weight] else prod(weight.shape)})
        elif weights:  # a transformation of weights: the kernel is the call that takes its result
            made_of[binding.var] = weights
        calls[name] += 1
    told = {weight: iter(layers) for weight, layers in found.items()}
    return [
        choice
        if weight is None
        else replace(choice, **next(told.get(weight.value, iter(())), {"schedule": "none: folded away"}))
        for choice, weight in zip(selection.choices, selection.weights)
    ]


def kernel_bindings(mod: IRModule) -> list[relax.Binding]:
    """The calls of TIR functions in 'main', in order."""
    bindings = (binding for block in mod["main"].body.blocks for binding in block.bindings)
    return [binding for binding in bindings if is_op(binding.value, "relax.call_tir")]
