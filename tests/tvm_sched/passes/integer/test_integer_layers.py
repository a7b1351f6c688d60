"""Quantised layers in integers: convolutions, residuals, concatenations, pools, and what stays in float32."""

import pytest
from integer_networks import A76, HOST, SHAPE, Network, check
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.passes.integer.integer_layers import integer_layers
from tvm_sched.passes.integer.left import Left
from tvm_sched.planning.plan import Restriction, Restrictions


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


@pytest.mark.parametrize("make", [residual_of_another_scale, mean_and_linear])
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
