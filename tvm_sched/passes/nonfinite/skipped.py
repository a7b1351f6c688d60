"""Which outputs might not tell that an input was not finite: a value that is none reaches only those block rows of a
layer that keep its channel, and none at all where it becomes an integer. Such inputs are looked at (`guard.py`).

Not all: -inf in a mask means something, and is gone behind a softmax, after which NaN alone is looked for; who chooses
by isnan has done what is to be done. So a value is followed from the input on to the first layer that skips.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import tvm_ffi
from tvm import IRModule, ir, relax, tirx

from tvm_sched.kernels.integer.bfloats import BITS as BFLOATS
from tvm_sched.passes.graph.channels_last import POOLS
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.passes.graph.pointwise import BROADCAST, POINTWISE, UNARY
from tvm_sched.passes.graph.relax_tools import shape_of
from tvm_sched.passes.nonfinite.guard import ANY, BITS, NAN, Guard

GUARDS = "subp.guards"  # attribute of 'main'
LAYERS = ("relax.nn.conv2d", "relax.matmul")
FORMS = ("requantize", "dequantize")  # begin the names of functions of linear forms (`integer/linear_form.py`)
INTEGER_POOLS = ("planar_pool", "image_sums")  # and those of pools of integers
UNNAMED = "layer"  # begins the names of those that have none
Reach = dict[int, int]  # by input NAN or ANY: what may be there of it
# Of infinities they make ordinary numbers, as they are meant to.
BOUNDING = {
    f"relax.{name}" for name in (*("nn.softmax", "nn.log_softmax", "sigmoid", "tanh", "erf", "atan", "clip", "sign"),)
}
# They give each image, a row of the first axis, by itself, where the axis is there in the result.
BY_IMAGE = {
    *UNARY,
    *BROADCAST,
    *POOLS,
    *("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d", "relax.nn.batch_norm", "relax.nn.pad"),
    *("relax.quantize", "relax.dequantize"),
}


@dataclass
class Value:
    """What is known of a variable."""

    reach: Reach = field(default_factory=dict)  # what is still there to be seen of the inputs
    lost: Reach = field(default_factory=dict)  # what some layer before it has skipped
    mixed: bool = False  # whether its images are not the inputs', one by one


def with_guards(mod: IRModule, selected: IRModule, skipping: Collection[str]) -> IRModule:
    """`selected`, which a pass has made of `mod` with the same inputs and outputs, with the attribute that `guards`
    reads. skipping: the names of layers that do not multiply all of their input; UNNAMED for all that have none.
    """
    found = lost_inputs(mod, skipping)
    if not found:
        return selected
    told = json.dumps([[guard.input, guard.output, guard.kind, guard.by_image] for guard in found])
    main = selected.get_global_var("main")
    return IRModule({**selected.functions, main: selected[main].with_attr(GUARDS, told)}, attrs=selected.attrs)


def guards(main: relax.Function) -> list[Guard]:
    """What `with_guards` has found."""
    attrs = main.attrs or {}
    return [Guard(*each) for each in json.loads(str(attrs[GUARDS]))] if GUARDS in attrs else []


def lost_inputs(mod: IRModule, skipping: Collection[str]) -> list[Guard]:
    """The outputs of 'main' that depend on an input by way of a layer that skips some of it."""
    main, skipping = mod["main"], {UNNAMED if name.startswith(f"{UNNAMED} ") else name for name in skipping}
    known: dict[relax.Var, Value] = {
        param: Value({number: ANY}) if is_fraction(param) else Value() for number, param in enumerate(main.params)
    }
    for block in main.body.blocks:
        for binding in block.bindings:
            known[binding.var] = value_of(binding, known, mod, skipping)
    result = main.body.body
    outputs = [result]
    if isinstance(result.ty, relax.TupleType):
        bound = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
        made = bound.get(result, result)
        outputs = list(made.fields) if isinstance(made, relax.Tuple) else []
    return [
        Guard(
            number, place, kind, not value.mixed and shape_or_none(output)[:1] == shape_or_none(main.params[number])[:1]
        )
        for place, output in enumerate(outputs)
        if is_fraction(output) and output in known
        for value in [known[output]]
        for number, kind in sorted(value.lost.items())
    ]


def value_of(
    binding: relax.VarBinding, known: Mapping[relax.Var, Value], mod: IRModule, skipping: Collection[str]
) -> Value:
    """What is known of a variable, from what it is computed of."""
    value = binding.value
    read = [known[var] for var in relax.analysis.free_vars(value) if var in known]
    reach, lost = most(each.reach for each in read), most(each.lost for each in read)
    mixed = any(each.mixed for each in read)
    if not isinstance(value, relax.Call):
        return Value(reach, lost, mixed)
    name = getattr(value.op, "name", "")
    before, rounds = reach, any(map(is_fraction, arguments_of(value))) and is_whole(binding.var, 8)
    if name == "relax.where":
        condition = known.get(value.args[0], Value())
        reach = {number: kind for number, kind in reach.items() if number not in condition.reach}
    elif name in BOUNDING:
        reach = dict.fromkeys(reach, NAN)
    elif name == "relax.call_tir" and chooses_by_nan(mod[value.args[0]]):
        reach = {}
    if str(getattr(binding.var.ty, "dtype", "bool")) not in ("bool", BFLOATS, *BITS):
        reach = {}
    if (layer_of(binding.var) or UNNAMED if name in LAYERS else None) in skipping or rounds:
        lost = most([lost, before])
    mixed = mixed or (bool(read) and not keeps_images(value, name, mod))
    return Value(reach, lost, mixed)


def most(all_of) -> Reach:
    """The most that reaches a place by any of several ways."""
    found: Reach = {}
    for each in all_of:
        for number, kind in each.items():
            found[number] = max(kind, found.get(number, 0))
    return found


def keeps_images(call: relax.Call, name: str, mod: IRModule) -> bool:
    """Whether each row of the result is computed of the same row of what the call reads."""
    made = shape_or_none(call)
    given = [shape_or_none(each) for each in arguments_of(call) if isinstance(each, relax.Var)]
    if not made or any(not each or each[0] != made[0] for each in given):
        return False
    if name == "relax.permute_dims":
        return call.attrs.axes is not None and int(call.attrs.axes[0]) == 0
    if name in ("relax.mean", "relax.sum", "relax.max"):
        return call.attrs.axis is not None and 0 not in [int(axis) % len(given[0]) for axis in call.attrs.axis]
    if name in ("relax.nn.softmax", "relax.nn.log_softmax"):
        return int(call.attrs.axis) % len(made) != 0
    if name == "relax.matmul":
        return len(given) == 1 and len(given[0]) == len(made)
    if name in ("relax.reshape", "relax.flatten", "relax.strided_slice"):
        return True
    if name == "relax.call_tir" and call.args[0].name_hint.startswith(INTEGER_POOLS):
        return True
    if name == "relax.concat":
        return call.attrs.axis is not None and int(call.attrs.axis) % len(made) != 0
    pointwise = name == "relax.call_tir" and is_pointwise(call.args[0], mod)
    return (pointwise or name in BY_IMAGE) and all(len(each) == len(made) for each in given)


def is_pointwise(var: ir.GlobalVar, mod: IRModule) -> bool:
    """Whether a function computes each element of those at its place."""
    attrs = mod[var].attrs or {}
    return POINTWISE in attrs or var.name_hint.startswith(FORMS)


def arguments_of(call: relax.Call) -> list[relax.Expr]:
    """The tensors that a call reads."""
    fields = [each.fields if isinstance(each, relax.Tuple) else [each] for each in call.args]
    return [each for several in fields for each in several if not isinstance(each, ir.GlobalVar)]


def shape_or_none(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor; None of what is none, or of unknown extents."""
    shape = getattr(expr.ty, "shape", None)
    return shape_of(expr) if isinstance(shape, relax.ShapeExpr) and is_static(shape) else None


def is_static(shape: relax.ShapeExpr) -> bool:
    """Whether all extents are known."""
    return all(isinstance(extent, tirx.IntImm) for extent in shape)


def chooses_by_nan(function) -> bool:
    """Whether a function asks what is a number."""
    found: list = []

    def see(call: ir.Call) -> None:
        if getattr(call.op, "name", "") == "tirx.isnan":
            found.append(call)

    tvm_ffi.structural_walk(function.body, (ir.Call, see), order="post")
    return bool(found)


def is_fraction(expr: relax.Expr) -> bool:
    """Whether it is a tensor of a floating type and of a static shape."""
    return shape_or_none(expr) is not None and str(expr.ty.dtype) in BITS


def is_whole(expr: relax.Expr, bits: int) -> bool:
    """Whether it is a tensor of integers of so many bits."""
    return str(getattr(expr.ty, "dtype", "")) in (f"int{bits}", f"uint{bits}")
