"""Moves what depends on constants alone out of the call: it is computed once, when the network is loaded.

Winograd's weights are why: transformed they are 16/9 or 4 times the packed blocks that the file holds.

    main(x)  ->  prepare() -> (u0, u1, ...)  and  main(x, u0, u1, ...)
"""

from tvm import IRModule, relax
from tvm.ir import GenericConst

from tvm_sched.passes.graph.layer_names import emit_layer, layer_of
from tvm_sched.passes.graph.relax_tools import is_op, with_main

PREPARE = "prepare"
INPUTS = "subp.inputs"  # how many of the parameters of 'main' the caller gives, where the others are prepared


def hoist_constants(mod: IRModule) -> IRModule:
    """Splits 'main', whose bindings are calls of TIR functions. Without such work there is no `prepare`."""
    main = mod["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    early = set()
    for binding in bindings:
        if is_op(binding.value, "relax.call_tir") and all(
            isinstance(arg, GenericConst) or arg in early for arg in binding.value.args[1]
        ):
            early.add(binding.var)
    late = [binding for binding in bindings if binding.var not in early]
    used = {
        var for expr in (*(binding.value for binding in late), main.body.body) for var in relax.analysis.free_vars(expr)
    }
    needed = [binding.var for binding in bindings if binding.var in early and binding.var in used]
    if not needed:
        return mod

    params = {var: relax.Var(var.name, var.ty) for var in needed}
    builder = relax.BlockBuilder(mod)
    with builder.function(PREPARE, [], pure=True):
        with builder.dataflow():
            values = emit(builder, [binding for binding in bindings if binding.var in early], {})
            result = builder.emit_output(relax.Tuple([values[var] for var in needed]))
        builder.emit_func_output(result)
    attrs = {**dict(main.attrs or {}), INPUTS: len(main.params)}
    with builder.function("hoisted", [*main.params, *params.values()], attrs=attrs):
        with builder.dataflow():
            values = emit(builder, late, params)
            result = builder.emit_output(values.get(main.body.body, main.body.body))
        builder.emit_func_output(result)
    return with_main(mod, builder.finalize(), "hoisted")


def mains(mod: IRModule) -> list[relax.Function]:
    """The functions that compute the network: 'main', and those of further shapes."""
    return [
        function
        for var, function in mod.functions.items()
        if isinstance(function, relax.Function) and var.name_hint != PREPARE
    ]


def emit(builder, bindings, known: dict) -> dict:
    """Emits the bindings again; returns what each old variable has become, `known` ones included."""
    known = dict(known)

    def renamed(expr):
        if isinstance(expr, relax.Var):
            return known.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([renamed(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(renamed(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [renamed(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    for binding in bindings:
        known[binding.var] = emit_layer(builder, renamed(binding.value), layer_of(binding.var))
    return known
