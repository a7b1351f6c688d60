"""Functions of quantised numbers: smooth ones of a layer's sums are polynomials, others of one stored value tables."""

import numpy as np
import pytest
from integer_networks import A76, HOST, TIE, check
from tvm import relax, tirx
from tvm.relax import op as rx


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
    made = check(lambda net, x: net.emit(rx.maximum(tanh(net, x), rx.nn.relu(net.convolution(x)))), stored=False)
    assert "maximum" in made.operators


def test_a_table_is_of_its_numbers_shape():
    more_axes = relax.const(np.full((1,) * 5, 0.1, "float32"))
    made = check(lambda net, x: net.emit(rx.add(tanh(net, x), more_axes)), last=(0.013, 90))
    assert made.result.ndim == 5


def test_a_curve_that_is_read_as_fractions_is_computed_so():
    """A step of what is stored between is 0.4 of one of the result."""
    assert "nn.silu" in check(silu_with_several_readers, tie=0.4 + TIE).operators


def test_curves_where_the_result_is_not_quantised():
    check(silu, stored=False)
