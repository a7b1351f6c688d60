"""A layer's name is the name of the variable that holds its result, from the import to the compiled network.

    layer:features.0.conv = call_tir(fused_direct_conv2d_add_relu, (x, w, b))

Passes that replace a layer's operator bind the new one to a variable of the same name. Inside a fused function, which
has no variables of Relax, the name stands on the kernel's block (`kernels.base.LAYER`), from where
`share_functions` moves it back.
"""

from tvm import relax

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
