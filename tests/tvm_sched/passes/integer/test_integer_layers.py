"""Quantised layers in integers, by our kernels, against the same network in float32, by TVM's own operators.

A sum of float32 products may lie a hair beside what one multiply-add of the same sum of integers gives; where that is
halfway between two whole numbers, both of these are right. So what is compared is the float32 value before it is
quantised, which must round to what was found within a thousandth of a step.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax, te, tirx
from tvm.relax import op as rx
from zeros import keep_blocks

from tvm_sched import pipeline, targets
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.pointwise import POINTWISE
from tvm_sched.passes.graph.relax_tools import constant, shape_of
from tvm_sched.passes.integer.integer_layers import integer_layers
from tvm_sched.passes.integer.left import Left
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.planning.plan import FREE, Restriction, Restrictions

HOST, A76 = (replace(targets.get(name), cores=1) for name in ("host", "cortex-a76"))
TIE = 1e-3  # of a step
SHAPE = (2, 8, 9, 9)
LAST = (0.05, 100)  # scale and zero point of a network's result


class Network:
    """Writes 'main'. Scales are such that values spread over the range that 8 bits have."""

    def __init__(self, signed: bool = False):
        self.builder, self.rng = relax.BlockBuilder(), np.random.default_rng(0)
        self.dtype, self.moved = ("int8", -128) if signed else ("uint8", 0)
        self.layers = 0

    def emit(self, call: relax.Expr) -> relax.Var:
        return self.builder.emit(call)

    def stored(self, x: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """A value in 8 bits."""
        zero_point += self.moved
        return self.emit(rx.quantize(x, relax.const(scale, "float32"), relax.const(zero_point), out_dtype=self.dtype))

    def fraction(self, q: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """What 8 bits stand for."""
        return self.emit(rx.dequantize(q, relax.const(scale, "float32"), relax.const(zero_point + self.moved)))

    def through(self, x: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """A value quantised and dequantised."""
        return self.fraction(self.stored(x, scale, zero_point), scale, zero_point)

    def weight(self, *shape: int, each: bool = True, zero_point: int = 0, kept: int | None = None) -> relax.Var:
        """A dequantised constant, whose products are of unit scale."""
        array = self.rng.integers(-127, 127, shape, "int8", endpoint=True)
        array = array if kept is None else keep_blocks(array, 16, kept, 0)
        scale = self.rng.uniform(0.5, 1, shape[0] if each else 1).astype("float32") * np.float32(
            1 / 74 / np.sqrt(array[0].size)
        )
        zeros = np.full(len(scale), zero_point, "int32")
        parameters = map(constant, (scale, zeros) if each else (scale[0], zeros[0]))
        return self.emit(rx.dequantize(constant(array), *parameters, axis=0))

    def convolution(self, x: relax.Expr, out: int = 16, taps: int = 3, bias: bool = True, groups: int = 1, **weight):
        """A layer that leaves the image's size as it is."""
        self.layers += 1
        w = self.weight(out, shape_of(x)[1] // groups, taps, taps, **weight)
        made = emit_layer(self.builder, rx.nn.conv2d(x, w, padding=taps // 2, groups=groups), f"layer{self.layers}")
        return self.emit(rx.add(made, self.numbers(1, out, 1, 1))) if bias else made

    def linear(self, x: relax.Expr, out: int, kept: int | None = None) -> relax.Var:
        """A layer on the last axis, of which 1x16 blocks keep so many channels."""
        self.layers += 1
        w = self.emit(rx.permute_dims(self.weight(out, shape_of(x)[-1], kept=kept), [1, 0]))
        made = emit_layer(self.builder, rx.matmul(x, w), f"layer{self.layers}")
        return self.emit(rx.add(made, self.numbers(out)))

    def pointwise(self, element, x: relax.Expr) -> relax.Var:
        """A function of elements, as the front ends write it."""
        call = self.builder.call_te(lambda x: te.compute(x.shape, lambda *at: element(x(*at)), name="own"), x)
        made = self.builder.get()[call.args[0]].with_attr(POINTWISE, True)
        self.builder.update_func(call.args[0], made)
        return self.emit(call)

    def numbers(self, *shape: int) -> relax.Expr:
        """Normal constants."""
        return constant(self.rng.standard_normal(shape, "float32"))

    def function(self, make, last: tuple[float, int] | None = LAST) -> IRModule:
        """'main' with what `make` answers, quantised by this scale and zero point or not, as its result."""
        x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                y = make(self, self.through(x, 0.03, 120))
                result = self.builder.emit_output(self.stored(y, *last) if last else y)
            self.builder.emit_func_output(result)
        return self.builder.finalize()


@dataclass
class Compiled:
    """What a network gives, and how its layers were computed."""

    result: np.ndarray
    layers: list[LayerChoice]
    operators: list[str]  # of the network after the pass

    @property
    def kernels(self) -> list[str]:
        return [choice.kernel.split()[0] for choice in self.layers]


def compiled(mod: IRModule, target: targets.Target, x: np.ndarray, restrictions: Restrictions = FREE) -> Compiled:
    """By all phases, in this machine's instructions."""
    seen = {}
    compilation = Compilation(target, observe=seen.setdefault, restrictions=restrictions)
    lowered = pipeline.run((*pipeline.FUSING, pipeline.SCHEDULING[0]), mod, compilation)
    here = target if targets.runs_here(target) else targets.on_this_machine(target)
    executable = pipeline.build(lowered, replace(compilation, target=here, observe=None))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    bindings = [each.value for block in seen["integer_layers"]["main"].body.blocks for each in block.bindings]
    operators = [each.op.name.removeprefix("relax.") for each in bindings if isinstance(each, relax.Call)]
    return Compiled(result, list(compilation.choices.values()), operators)


def in_float32(mod: IRModule, x: np.ndarray) -> np.ndarray:
    """By TVM's own operators and plain loops."""
    with HOST.tvm():
        fused = pipeline.FUSE(pipeline.SIMPLIFY(mod))
    return relax.VirtualMachine(tvm.compile(fused, "llvm"), tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE, "float32") * 1.5


def check(make, target=HOST, signed=False, stored=True, restrictions=FREE, tie=TIE, last=LAST) -> Compiled:
    """Compiles it and compares; what was compiled. `last`: scale and zero point of the result."""
    want = in_float32(Network(signed).function(make, None), x()).astype("float64")
    made = compiled(Network(signed).function(make, last if stored else None), target, x(), restrictions)
    if not stored:
        np.testing.assert_allclose(made.result, want, rtol=1e-5, atol=1e-5)
        return made
    assert str(made.result.dtype) == ("int8" if signed else "uint8")
    limits = np.iinfo(made.result.dtype)
    scale, zero_point = last
    steps = np.clip(want / scale + zero_point + (-128 if signed else 0), limits.min, limits.max)
    assert np.std(steps) > 5  # that it says something
    assert abs(made.result - steps).max() <= 0.5 + tie
    return made


def relu(net, x):
    return net.emit(rx.nn.relu(net.convolution(x)))


def relu6_of_a_depthwise_layer(net, x):
    return net.emit(rx.clip(net.convolution(x, 8, groups=8), 0, 6))


def pointwise_without_bias(net, x):
    return net.convolution(x, 24, 1, bias=False)


def one_scale_for_all_channels(net, x):
    return net.convolution(x, each=False)


def scaled_and_moved(net, x):
    """As a batch norm that no weight has taken."""
    y = net.emit(rx.multiply(net.convolution(x), net.numbers(1, 16, 1, 1)))
    return net.emit(rx.nn.relu(net.emit(rx.add(net.numbers(16, 1, 1), y))))


def residual_of_another_scale(net, x):
    y = net.through(net.convolution(x, 8), 0.031, 90)
    return net.emit(rx.nn.relu(net.emit(rx.add(net.convolution(y, 8, 1), net.through(x, 0.41, 128)))))


def residual_of_two_stored_values(net, x):
    one, other = (net.through(net.convolution(x, 8, taps), scale, 80) for taps, scale in ((1, 0.02), (3, 0.07)))
    return net.emit(rx.add(one, other))


def concatenation_of_one_scale(net, x):
    one, other = (net.through(net.convolution(x, 16, taps), 0.04, 110) for taps in (1, 3))
    return net.convolution(net.emit(rx.concat([one, other], 1)), 16, 1)


def concatenation_of_two_scales(net, x):
    one, other = (net.through(net.convolution(x, 16, 1), scale, 110) for scale in (0.04, 0.023))
    return net.convolution(net.through(net.emit(rx.concat([one, other], 1)), 0.041, 110), 16, 1)


def concatenation_of_sums(net, x):
    """Neither is stored for itself; and one that another reads."""
    one, other = net.convolution(x, 8, 1), net.emit(rx.nn.relu(net.convolution(x, 16)))
    both = net.through(net.emit(rx.concat([one, net.through(x, 0.103, 90), other], 1)), 0.04, 110)
    return net.emit(rx.add(net.convolution(both, 8, 1), one))


def gate(net, x):
    """Squeeze and excite, of what is stored with another scale."""
    y = net.through(net.convolution(x, 16), 0.04, 110)
    squeezed = net.through(net.emit(rx.mean(y, [2, 3], True)), 0.0031, 100)
    scale = net.through(net.emit(rx.add(net.convolution(squeezed, 16, 1), relax.const(2.0))), 0.017, 30)
    return net.emit(rx.multiply(scale, y))


def hardswish(net, x):
    y = net.convolution(x)
    bounded = net.emit(rx.clip(net.emit(rx.add(y, relax.const(3.0))), 0, 6))
    return net.emit(rx.divide(net.emit(rx.multiply(y, bounded)), relax.const(6.0)))


def hardswish_of_a_stored_value(net, x):
    y = net.through(net.convolution(x))
    bounded = net.emit(rx.maximum(net.emit(rx.add(y, relax.const(3.0))), relax.const(0.0)))
    bounded = net.emit(rx.minimum(relax.const(6.0), bounded))
    y = net.emit(rx.multiply(net.emit(rx.multiply(y, bounded)), relax.const(1 / 6)))
    return net.emit(rx.divide(net.emit(rx.nn.relu(net.convolution(net.through(y, 0.0173, 21), 8))), relax.const(1.5)))


def max_pool(net, x):
    y = net.through(relu(net, x), 0.02, 0)
    return net.convolution(net.emit(rx.nn.max_pool2d(y, 3, 2, 1)), 8, 1)


def pools_of_the_greatest(net, x):
    """Of overlapping windows with a margin, and such that one reaches beyond it."""
    y = net.emit(rx.nn.max_pool2d(x, [3, 2], 1, 1))
    return net.convolution(net.emit(rx.nn.max_pool2d(y, 2, 2, ceil_mode=True)), 8, 1)


def averages(net, x):
    """Margins counted or not, and windows that reach beyond them."""
    y = net.emit(rx.nn.avg_pool2d(x, 3, 2, 1, count_include_pad=True))
    z = net.emit(rx.nn.avg_pool2d(x, 3, 2, 1))
    both = net.through(net.emit(rx.add(y, z)), 0.0213, 120)
    both = net.through(net.emit(rx.nn.avg_pool2d(both, 2, 2, 0, ceil_mode=True)), 0.0197, 120)
    return net.convolution(both, 8, 1)


def averages_of_parts(net, x):
    return net.convolution(net.through(net.emit(rx.nn.adaptive_avg_pool2d(x, 3)), 0.0213, 120), 8, 1)


def mean_and_linear(net, x):
    y = net.emit(rx.mean(net.through(net.convolution(x)), [2, 3]))
    return net.linear(net.through(y, 0.01, 128), 20)


def linear_layers_of_many_rows(net, x):
    """A sparse one, by pixels of a transposed image, and a dense one."""
    y = net.through(net.convolution(x, 32, 1))
    y = net.emit(rx.permute_dims(net.emit(rx.reshape(y, [2, 32, 81])), [0, 2, 1]))
    y = net.through(net.emit(rx.nn.relu(net.linear(y, 64, kept=8))), 0.03, 10)
    return net.linear(y, 20)


def average_pool(net, x):
    return net.emit(rx.nn.adaptive_avg_pool2d(net.through(net.emit(rx.nn.relu(net.convolution(x))), 0.01, 0), 1))


def channel_shuffle(net, x):
    y = net.through(net.convolution(x))
    y = net.emit(rx.permute_dims(net.emit(rx.reshape(y, [2, 2, 8, 9, 9])), [0, 2, 1, 3, 4]))
    return net.convolution(net.emit(rx.reshape(y, [2, 16, 9, 9])), 16, groups=2)


def silu(net, x):
    return net.emit(rx.nn.silu(net.convolution(x)))


def silu_as_a_product(net, x):
    y = net.convolution(x, 8, groups=8)
    return net.emit(rx.multiply(net.emit(rx.sigmoid(y)), y))


def gelu_of_a_linear_layer(net, x):
    return net.emit(rx.nn.gelu(net.linear(x, 32)))


def gelu_by_tanh(net, x):
    return net.emit(rx.nn.gelu_tanh(net.convolution(x, 16, 1)))


def sigmoid_of_a_stored_value(net, x):
    return net.emit(rx.sigmoid(net.through(net.convolution(x))))


def concatenation_of_curves(net, x):
    return net.emit(rx.concat([silu(net, x), net.convolution(x, 8)], -3))


def silu_with_several_readers(net, x):
    """One of fractions."""
    y = net.emit(rx.nn.silu(net.convolution(x, 8)))
    return net.emit(rx.add(net.emit(rx.abs(y)), net.emit(rx.abs(net.through(y, 0.02, 20)))))


def slices(net, x):
    one, other = (net.through(net.convolution(x), 0.04, 110),) * 2
    one = net.emit(rx.strided_slice(one, [1], [0], [6]))
    return net.emit(rx.concat([net.convolution(one, 8), net.convolution(other, 8, 1)], 1))


def a_value_with_several_readers(net, x):
    """The sum itself, its ReLU, and what is stored of it."""
    y = net.convolution(x, 8)
    stored = net.convolution(net.through(y), 8, 1)
    return net.emit(rx.add(net.emit(rx.add(net.emit(rx.nn.relu(y)), stored)), net.emit(rx.tanh(y))))


GRAPHS = [
    (relu, 1),
    (relu6_of_a_depthwise_layer, 1),
    (pointwise_without_bias, 1),
    (one_scale_for_all_channels, 1),
    (scaled_and_moved, 1),
    (residual_of_another_scale, 2),
    (residual_of_two_stored_values, 2),
    (concatenation_of_one_scale, 3),
    (concatenation_of_two_scales, 3),
    (concatenation_of_sums, 3),
    (gate, 2),
    (hardswish, 1),
    (hardswish_of_a_stored_value, 2),
    (max_pool, 2),
    (pools_of_the_greatest, 1),
    (averages, 1),
    (averages_of_parts, 1),
    (mean_and_linear, 1),
    (average_pool, 1),
    (channel_shuffle, 2),
    (slices, 3),
    (a_value_with_several_readers, 2),
]


@pytest.mark.parametrize(("make", "integers"), GRAPHS)
def test_networks_of_unsigned_activations(make, integers):
    made = check(make)
    assert made.kernels.count("planar") == integers
    if make not in (a_value_with_several_readers, mean_and_linear):
        assert "dequantize" not in made.operators  # nothing is left in float32


@pytest.mark.parametrize("left_out", [None, "integer_linear"])
def test_linear_layers_of_many_rows_also_run_as_pixels(left_out):
    restrictions = Restrictions(Restriction(kernels=frozenset({left_out})))
    made = check(linear_layers_of_many_rows, restrictions=restrictions)
    assert made.kernels == ["planar", *(["planar"] if left_out else ["integer"]) * 2]
    assert {layer.precision for layer in made.layers} == {"int8"}


@pytest.mark.parametrize("make", [residual_of_another_scale, max_pool])
@pytest.mark.parametrize(("target", "signed"), [(HOST, True), (A76, False), (A76, True)])
def test_activations_get_the_type_that_the_dot_products_take(target, signed, make):
    made = check(make, target, signed)
    assert made.kernels.count("planar") == 2


CURVES = [silu, silu_as_a_product, gelu_of_a_linear_layer, gelu_by_tanh, sigmoid_of_a_stored_value]


@pytest.mark.parametrize("make", [*CURVES, concatenation_of_curves])
def test_curves_are_polynomials_within_a_small_part_of_a_step(make):
    made = check(make, tie=1 / 128 + TIE, last=(0.01, 30))
    assert "dequantize" not in made.operators
    assert not {"nn.silu", "nn.gelu", "nn.gelu_tanh", "sigmoid"}.intersection(made.operators)


def tanh(net, x):
    return net.emit(rx.tanh(net.through(net.convolution(x))))


def mish(net, x):
    """y tanh(log(1 + e^y)), as PyTorch's is taken apart."""
    y = net.through(net.convolution(x))
    softplus = net.pointwise(tirx.log1p, net.emit(rx.exp(y)))
    above = net.emit(rx.greater(y, relax.const(20.0)))
    return net.emit(rx.multiply(y, net.emit(rx.tanh(net.emit(rx.where(above, y, softplus))))))


def elu(net, x):
    """By one function of elements; then concatenated."""

    def element(a):
        one, zero = tirx.const(1.0, "float32"), tirx.const(0.0, "float32")
        return tirx.Select(a > zero, a, (tirx.exp(tirx.min(a, zero)) - one) * tirx.const(0.7, "float32"))

    made = net.pointwise(element, net.through(net.convolution(x, 8)))
    return net.emit(rx.concat([made, net.convolution(x, 8)], 1))


def square_of_a_clipped_value(net, x):
    y = net.emit(rx.clip(net.through(net.convolution(x)), -0.7, 1.3))
    return net.emit(rx.negative(net.emit(rx.square(y))))


@pytest.mark.parametrize(
    ("make", "target"), [(tanh, HOST), (mish, HOST), (elu, A76), (square_of_a_clipped_value, HOST)]
)
def test_other_functions_of_a_stored_value_are_tables(make, target):
    made = check(make, target, last=(0.013, 90))
    assert not {"dequantize", "tanh", "exp", "square"}.intersection(made.operators)


def test_functions_of_two_stored_values_are_no_tables():
    made = check(lambda net, x: net.emit(rx.maximum(tanh(net, x), relu(net, x))), stored=False)
    assert "maximum" in made.operators


def test_a_table_is_of_its_numbers_shape():
    more_axes = relax.const(np.full((1,) * 5, 0.1, "float32"))
    made = check(lambda net, x: net.emit(rx.add(tanh(net, x), more_axes)), last=(0.013, 90))
    assert made.result.ndim == 5


def test_a_curve_that_is_read_as_fractions_is_computed_so():
    """A step of what is stored between is 0.4 of one of the result."""
    assert "nn.silu" in check(silu_with_several_readers, tie=0.4 + TIE).operators


@pytest.mark.parametrize("make", [residual_of_another_scale, mean_and_linear, silu])
def test_fractions_where_the_result_is_not_quantised(make):
    check(make, stored=False)


def weights_with_a_zero_point(net, x):
    return net.convolution(x, zero_point=3)


def test_weights_with_a_zero_point_stay_in_float32():
    made = check(weights_with_a_zero_point)
    assert len(made.kernels) == 1 and "planar" not in made.kernels


def test_what_is_left_in_float32_is_said():
    left = Left()
    with HOST.tvm():
        integer_layers(Network().function(a_value_with_several_readers), "uint8", left)
        assert left.remarks == ["in float32, as there is no form in integers here: add (2 times), tanh"]
        integer_layers(Network().function(weights_with_a_zero_point), "uint8", left := Left())
        assert list(left.layers) == ["layer1"] and "its weights" in left.layers["layer1"]
        integer_layers(Network().function(mean_and_linear), "uint8", left := Left())
    assert not left.layers and not left.remarks


def test_a_network_that_dequantises_nothing_is_left_alone():
    builder, y = relax.BlockBuilder(), relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [y]):
        with builder.dataflow():
            result = builder.emit_output(rx.nn.relu(y))
        builder.emit_func_output(result)
    mod = builder.finalize()
    assert integer_layers(mod, "uint8").same_as(mod)
