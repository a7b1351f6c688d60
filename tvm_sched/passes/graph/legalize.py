"""Lowers Relax operators to TIR functions: TVM's own lowering, but for two.

TVM's concatenation asks piece after piece whether an element is in it; with the 31 pieces of a DenseNet, TVM then takes
20 seconds to resolve these questions in one function. Ours halves the pieces at each question.

TVM fuses nothing with a gather. Ours by constant positions, as those of resizing are, is fused like any other movement
of data.
"""

import tvm
from tvm import relax, te, tirx

from tvm_sched.passes.graph.broadcasts_apart import INJECTIVE
from tvm_sched.passes.graph.relax_tools import as_array, shape_of


def concatenate(*pieces, axis: int):
    """The pieces behind one another along `axis`; all other extents are alike."""
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + piece.shape[axis])

    def element(*position):
        def among(first, last):
            if last - first == 1:
                return pieces[first](*position[:axis], position[axis] - ends[first], *position[axis + 1 :])
            middle = (first + last) // 2
            return tirx.if_then_else(position[axis] < ends[middle], among(first, middle), among(middle, last))

        return among(0, len(pieces))

    shape = list(pieces[0].shape)
    return te.compute((*shape[:axis], ends[-1], *shape[axis + 1 :]), element, name="concatenate")


def lower_concat(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """relax.concat as a call of `concatenate`."""
    pieces = call.args[0]
    if not isinstance(pieces, relax.Tuple):
        pieces = [builder.emit(relax.TupleGetItem(pieces, i)) for i in range(len(pieces.ty.fields))]
    rank = len(call.ty.shape)
    axis = int(call.attrs.axis) % rank if call.attrs.axis is not None else 0
    return builder.call_te(concatenate, *pieces, axis=axis, primfunc_name_hint="concatenate")


def gather(x, positions, axis: int):
    """x[..., positions[i], ...]: all positions are in the axis."""
    shape = [*x.shape[:axis], positions.shape[0], *x.shape[axis + 1 :]]
    return te.compute(shape, lambda *at: x(*at[:axis], positions[at[axis]], *at[axis + 1 :]), name="gather")


def lower_take(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """relax.take by a vector of constant positions as a call of `gather`, any other as TVM's."""
    x, positions = call.args
    array, axis = as_array(positions), call.attrs.axis
    if array is None or array.ndim != 1 or axis is None:
        return call.op.get_attr("FLegalize")(builder, call)
    axis = int(axis) % len(x.ty.shape)
    if array.size and (array.min() < 0 or array.max() >= shape_of(x)[axis]):
        return call.op.get_attr("FLegalize")(builder, call)
    return builder.call_te(
        gather, x, positions, axis=axis, primfunc_name_hint="gather", primfunc_attrs={"op_pattern": INJECTIVE}
    )


@tvm.transform.module_pass(opt_level=0, name="legalize")
def legalize(mod, _context):
    """The pass."""
    return relax.transform.LegalizeOps({"relax.concat": lower_concat, "relax.take": lower_take})(mod)
