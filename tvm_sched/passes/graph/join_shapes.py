"""Joins the modules of one network, lowered for several shapes each, into one that holds what is equal once: functions,
weights, and what 'prepare' makes of these.

    main(x, u)  prepare() -> (u)   and   main(x, v, u)  prepare() -> (v, u)
    ->  main(x, u)  main_1(x, v, u)  prepare() -> (u, v)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm_ffi
from tvm import IRModule, relax
from tvm.ir import GenericConst, GlobalVar
from tvm.tirx import PrimFunc

from tvm_sched.passes.graph.hoist_constants import PREPARE, emit
from tvm_sched.passes.graph.relax_tools import as_array

SYMBOL = "global_symbol"


@dataclass(frozen=True)
class Joined:
    """One module, and of each shape: its 'main', which of the results of 'prepare' that takes, and the new names of
    its functions.
    """

    mod: IRModule
    mains: list[str]
    prepared: list[list[int]]
    names: list[dict[str, str]]


def join_shapes(mods: Sequence[IRModule]) -> Joined:
    """Joins modules whose 'main' and, where there is one, 'prepare' call TIR functions."""
    builder = relax.BlockBuilder()
    constants: dict[tuple, GenericConst] = {}
    functions, names = [], []
    for mod in mods:
        moved = {
            var.name_hint: builder.add_func(function.without_attr(SYMBOL), var.name_hint)
            for var, function in mod.functions_items()
            if isinstance(function, PrimFunc)
        }
        names.append({name: var.name_hint for name, var in moved.items()})
        functions.append(
            {
                var.name_hint: moved_calls(function, moved, constants)
                for var, function in mod.functions_items()
                if isinstance(function, relax.Function)
            }
        )
    prepared = joined_prepare(builder, [each.get(PREPARE) for each in functions])
    mains = []
    for number, each in enumerate(functions):
        mains.append(f"main_{number}" if number else "main")
        builder.add_func(each["main"].with_attr(SYMBOL, mains[-1]), mains[-1])
    return Joined(builder.finalize(), mains, prepared, names)


def moved_calls(function: relax.Function, moved: dict[str, GlobalVar], constants: dict) -> relax.Function:
    """The function, which calls functions by their new names, and whose constants are those of the same value that are
    known.
    """

    def known(constant: GenericConst) -> GenericConst:
        array = as_array(constant)
        if array is None:
            return constant
        digest = hashlib.blake2b(np.ascontiguousarray(array).view("uint8")).digest()
        return constants.setdefault((array.shape, str(array.dtype), digest), constant)

    return tvm_ffi.structural_map(function, ((GlobalVar, lambda var: moved[var.name_hint]), (GenericConst, known)))


def joined_prepare(builder: relax.BlockBuilder, prepares: Sequence[relax.Function | None]) -> list[list[int]]:
    """Adds a function that computes all that these do, equal calls once; of each the places of its results."""
    made: dict[tuple, relax.Var] = {}  # by function and arguments
    results: list[relax.Var] = []
    places: list[list[int]] = []
    if not any(prepares):
        return [[] for _ in prepares]
    with builder.function(PREPARE, [], pure=True):
        with builder.dataflow():
            for function in prepares:
                places.append([])
                if function is None:
                    continue
                *bindings, last = (binding for block in function.body.blocks for binding in block.bindings)
                known: dict[relax.Var, relax.Var] = {}
                for binding in bindings:
                    arguments = tuple(known.get(arg, arg) for arg in binding.value.args[1])
                    key = (binding.value.args[0].name_hint, *arguments)
                    if key not in made:
                        made[key] = emit(builder, [binding], known)[binding.var]
                    known[binding.var] = made[key]
                for field in last.value.fields:
                    if known[field] not in results:
                        results.append(known[field])
                    places[-1].append(results.index(known[field]))
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return places
