"""A layer's name is the name of the variable that holds its result, from the import to the compiled network.

    layer:features.0.conv = call_tir(fused_direct_conv2d_add_relu, (x, w, b))

Passes that replace a layer's operator bind the new one to a variable of the same name. Inside a fused function, which
has no variables of Relax, the name stands on the kernel's block (`kernels.base.LAYER_MARK`), from where
`share_functions` moves it back.
"""

import tvm
from tvm import IRModule, relax

PREFIX = "layer:"


def layer_of(var: relax.Var) -> str | None:
    """The layer whose result a variable holds; None for any other variable."""
    name = var.name
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def emit_layer(builder: relax.BlockBuilder, expr: relax.Expr, layer: str | None) -> relax.Var:
    """Binds the expression, in a dataflow block, to a variable of the layer's name; to any without one."""
    if layer is None:
        return builder.emit(expr)
    value = builder.normalize(expr)
    var = relax.DataflowVar(PREFIX + layer, value.ty)
    builder.emit_normalized(relax.VarBinding(var, value))
    return var


@tvm.transform.module_pass(opt_level=0, name="name_output")
def name_output(mod: IRModule, _context) -> IRModule:
    """Gives the output of 'main', where it is a layer's result, the layer's name: of the two variables,
    CanonicalizeBindings keeps the output's.
    """
    main = mod["main"]
    if not main.body.blocks:  # it gives back inputs and constants
        return mod
    *blocks, last = main.body.blocks
    *bindings, binding = last.bindings
    if not isinstance(binding.value, relax.Var) or layer_of(binding.value) is None:
        return mod
    named = relax.Var(binding.value.name, binding.value.ty)
    block = type(last)([*bindings, relax.VarBinding(named, binding.value)])
    body = relax.SeqExpr([*blocks, block], named)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return IRModule({**mod.functions, mod.get_global_var("main"): function}, attrs=mod.attrs)
