"""Lowers Relax operators to TIR functions: TVM's own lowering, but for these.

TVM's concatenation asks piece after piece whether an element is in it; with the 31 pieces of a DenseNet, TVM then takes
20 seconds to resolve these questions in one function. Ours halves the pieces at each question.

TVM fuses nothing with a gather. Ours by constant positions, as those of resizing are, is fused like any other movement
of data.

Where TVM quantises it rounds halves away from zero, one element at a time. Ours rounds as PyTorch and ONNX do, in
vectors. The scales are arguments of the functions, so that layers which differ in them share one.

Where TVM looks for the largest number it begins with the least finite one, which it then gives for infinities. Ours
begins with infinity.
"""

from math import inf

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx

from tvm_sched.passes.graph.broadcasts_apart import INJECTIVE
from tvm_sched.passes.graph.relax_tools import as_array, constant, dtype_of, is_op, shape_of


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


def of_element(parameter, position, axis: int):
    """A scale or zero point, which is one number or a vector along the axis, for the element at a position."""
    return parameter(*([position[axis]] if len(parameter.shape) else []))


MAGIC, MAGIC_BITS = 1.5 * 2**23, 0x4B400000  # a float32, and its bits: its neighbours are whole numbers


def quantize(x, factor, low, high, zero, axis: int, divides: bool, dtype: str):
    """clamp(round(x factor) + zero point), or of x / factor; halves to even. As `low` and `high` are whole numbers, the
    type's less the zero point, it may be clamped first; the sum with MAGIC is then rounded so, and its bits count up
    from MAGIC_BITS, which `zero` has less than the zero point. No two steps could become one multiply-add.
    """

    def element(*at):
        f, least, most, shift = (of_element(each, at, axis) for each in (factor, low, high, zero))
        bounded = tirx.max(tirx.min(x(*at) / f if divides else x(*at) * f, most), least)
        return (tirx.reinterpret("int32", bounded + tirx.const(MAGIC, "float32")) + shift).astype(dtype)

    return te.compute(x.shape, element, name="quantize")


def dequantize(q, scale, zero_point, axis: int):
    """(q - zero point) scale."""

    def element(*at):
        shifted = q(*at).astype("int32").astype("float32") - of_element(zero_point, at, axis)
        return shifted * of_element(scale, at, axis)

    return te.compute(q.shape, element, name="dequantize")


def lower_quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """relax.quantize of constant scales as a call of `quantize`, any other as TVM's. A zero point of the result's own
    type tells that it divides by the scale, as ONNX's does; PyTorch's multiplies by the reciprocal.
    """
    x, *parameters = call.args
    scale, zero_point = map(as_array, parameters)
    if scale is None or zero_point is None or dtype_of(x) != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    dtype, divides = str(call.attrs.out_dtype), dtype_of(call.args[2]) == str(call.attrs.out_dtype)
    factor = np.asarray(scale if divides else (1 / scale.astype("float64")).astype("float32"))
    zero, whole = zero_point.astype("int32"), np.iinfo(dtype)
    bounds = (np.asarray(bound - zero, "float32") for bound in (whole.min, whole.max))
    known = map(constant, (factor, *bounds, np.asarray(zero - MAGIC_BITS)))
    axis = int(call.attrs.axis) % max(len(x.ty.shape), 1)
    return builder.call_te(quantize, x, *known, axis=axis, divides=divides, dtype=dtype, primfunc_name_hint="quantize")


def lower_dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """relax.dequantize of 8-bit numbers by constant scales as a call of `dequantize`, any other as TVM's."""
    q, *parameters = call.args
    scale, zero_point = map(as_array, parameters)
    if scale is None or zero_point is None or dtype_of(q) not in ("int8", "uint8"):
        return call.op.get_attr("FLegalize")(builder, call)
    known = constant(scale), constant(zero_point.astype("float32"))
    axis = int(call.attrs.axis) % max(len(q.ty.shape), 1)
    return builder.call_te(dequantize, q, *known, axis=axis, primfunc_name_hint="dequantize")


def lower_extreme(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """TVM's maximum or minimum over axes or windows, which begins with infinity."""
    made = call.op.get_attr("FLegalize")(builder, call)
    if is_op(made, "relax.call_tir"):
        builder.update_func(made.args[0], tvm_ffi.structural_map(builder.get()[made.args[0]], (tirx.FloatImm, endless)))
    return made


def endless(number: tirx.FloatImm) -> tirx.FloatImm:
    """Infinity for the largest and the least finite number of its type, any other number as it is."""
    dtype = str(number.ty.dtype)
    if dtype in FINITE and abs(number.value) >= FINITE[dtype]:
        return tirx.FloatImm(dtype, inf if number.value > 0 else -inf)
    return number


FINITE = {dtype: float(np.finfo(dtype).max) for dtype in ("float16", "float32", "float64")}
EXTREMES = ("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d", "nn.adaptive_max_pool2d", "max", "min")
LOWERINGS = {
    "relax.concat": lower_concat,
    "relax.take": lower_take,
    "relax.quantize": lower_quantize,
    "relax.dequantize": lower_dequantize,
    **{f"relax.{name}": lower_extreme for name in EXTREMES},
}


@tvm.transform.module_pass(opt_level=0, name="legalize")
def legalize(mod, _context):
    """The pass."""
    return relax.transform.LegalizeOps(LOWERINGS)(mod)
