"""What is fused behind the integer kernels: a residual of another scale, a concatenation's place, SiLU."""

import numpy as np
import pytest
from integer_run import (
    CONV2D,
    DEPTHWISE,
    STEM,
    TARGETS,
    Convolution,
    Function,
    computed,
    form_of,
    multiply_add,
    packed,
    rounded,
    sums,
)
from te_run import function
from tvm import te, topi

from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.passes.integer.curves import bend
from tvm_sched.passes.integer.linear_form import dequantize, requantize
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.vector_math import vector_math

CASES = [
    (CONV2D, Convolution(12, 32, (8, 8), (1, 1), density=0.5)),  # whole vectors of the run
    (CONV2D, Convolution(12, 20, (7, 7), (1, 1))),  # not so
    (CONV2D, Convolution(10, 32, (7, 9), (3, 3), (2, 1), (1, 1, 1, 1), density=0.5, batch=2)),
    (DEPTHWISE, Convolution(6, 6, (9, 9), (3, 3), (1, 1), (1, 1, 1, 1), groups=6, n=4)),
    (STEM, Convolution(3, 16, (12, 12), (3, 3), (2, 2), (1, 1, 1, 1))),
]
LIMITS = {"uint8": (3, 250), "int8": (-120, 120)}


class Sum:
    """A layer's sums, in TE and in NumPy, for something to be computed of them."""

    def __init__(self, kernel, case, target):
        self.dtype, self.target = dot_of(target).activation, target
        layer = case.layer(self.dtype, case.weight)
        self.form = form_of(kernel, layer, target, case.n)
        self.arrays = [case.x(self.dtype), *packed(self.form)]
        self.expected = sums(self.arrays[0], layer)
        self.inputs = [te.placeholder(array.shape, str(array.dtype)) for array in self.arrays]
        self.te = computed(self.form, self.inputs[0], self.inputs[1:])
        rng = self.rng = np.random.default_rng(case.seed)
        self.scale = np.float32(60 / self.expected.std())
        self.coefficient = (self.scale * rng.uniform(0.5, 1, (layer.out_channels, 1, 1))).astype("float32")
        self.bias = rng.uniform(-20, 140, (layer.out_channels, 1, 1)).astype("float32")

    def input(self, array: np.ndarray) -> te.Tensor:
        """One more."""
        self.arrays.append(array)
        self.inputs.append(te.placeholder(array.shape, str(array.dtype)))
        return self.inputs[-1]

    def function(self, result: te.Tensor, expected: np.ndarray) -> Function:
        """Of what was computed."""
        return Function(self.form, function(self.inputs, result), self.arrays, expected, self.target)


@pytest.mark.parametrize("name", ["host", "x86-avx2", "cortex-a76"])
@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_a_residual_of_another_scale_is_added_before_one_rounding(name, kernel, case):
    layer = Sum(kernel, case, TARGETS[name])
    low, high = np.iinfo(layer.dtype).min, np.iinfo(layer.dtype).max
    other = layer.rng.integers(low, high, layer.expected.shape, layer.dtype, endpoint=True)
    residual, coefficient, bias = map(layer.input, (other, layer.coefficient, layer.bias))
    options = {"limits": LIMITS[layer.dtype], "dtype": layer.dtype, "fits": True}
    made = requantize(layer.te, residual, coefficient, bias, numbers=[None, 0.37, None], **options)
    value = multiply_add(other, np.float32(0.37), multiply_add(layer.expected, layer.coefficient, layer.bias))
    layer.function(made, rounded(value, LIMITS[layer.dtype], layer.dtype)).check()


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_what_needs_fractions_gets_float32(kernel, case):
    """SiLU's exponential is a polynomial: a value near a half may go to the other side."""
    layer = Sum(kernel, case, TARGETS["host"])
    coefficient, bias = layer.input(layer.coefficient / 20), layer.input(layer.bias / 20)
    fractions = dequantize(layer.te, coefficient, bias, numbers=[None, None], limits=(-np.inf, np.inf))
    scaled = topi.multiply(topi.multiply(fractions, topi.sigmoid(fractions)), te.const(9.0, "float32"))
    made = requantize(scaled, numbers=[1.0, 30.0], limits=LIMITS["uint8"], dtype="uint8", fits=True)
    value = multiply_add(layer.expected, layer.coefficient / 20, layer.bias / 20).astype("float64")
    exact = value / (1 + np.exp(-value)) * 9 + 30
    function = layer.function(made, rounded(exact, LIMITS["uint8"], "uint8"))
    function.mod = each(vector_math)(function.mod)
    away = abs(exact - np.floor(exact) - 0.5) > 1e-3
    assert away.mean() > 0.99
    found = function.found()
    np.testing.assert_array_equal(found[away], function.result[away])
    assert abs(found.astype("int32") - function.result).max() <= 1


@pytest.mark.parametrize("name", ["relax.nn.silu", "relax.sigmoid"])
@pytest.mark.parametrize(("kernel", "case"), CASES[:2])
def test_curves_are_polynomials(kernel, case, name):
    """In the same multiply-adds; and these are within a 128th of a step of the function."""
    layer, (scale, zero_point) = Sum(kernel, case, TARGETS["host"]), (0.02, 20)
    bent = bend(name, scale, zero_point)
    far = np.float32(2 / bent.reach)
    coefficient, bias = (array / 20 for array in (layer.coefficient, layer.bias - 60))
    given = layer.input(coefficient * far), layer.input(bias * far)
    made = requantize(layer.te, *given, numbers=[None, None], limits=(0, 255), dtype="uint8", fits=True, curve=bent)
    v = multiply_add(layer.expected, coefficient * far, bias * far)
    u = np.minimum(abs(v), np.float32(2)) - np.float32(1)
    value = np.full(u.shape, bent.coefficients[0], "float32")
    for power in bent.coefficients[1:]:
        value = multiply_add(value, u, np.float32(power))
    if bent.rise is None:
        value = np.where(v > 0, np.float32(bent.mirror) - value, value)
    else:
        value = multiply_add(np.maximum(v, 0), np.float32(bent.rise), value)
    y = np.float64(v) * bent.reach / 2
    exact = 1 / (1 + np.exp(-y)) * (1 if bent.rise is None else y) / scale + zero_point
    assert abs(value - exact).max() < 1 / 128 + 1e-3
    layer.function(made, rounded(value, (0, 255), "uint8")).check()
