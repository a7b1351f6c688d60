"""Sums that begin as fractions are rounded to the same as others: every sum that a channel's weights can give."""

import numpy as np
import pytest
from integer_run import multiply_add

from tvm_sched.kernels.integer.begun_sums import begun, first_multiple
from tvm_sched.kernels.integer.rounding import Rounding

CHANNELS = 12


def layer(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 weights [O, size], coefficients and biases by which results spread over bytes."""
    rng = np.random.default_rng(size)
    weight = np.clip(np.rint(rng.standard_normal((CHANNELS, size)) * 35), -127, 127).astype("int8")
    spread = np.sqrt(np.square(weight.astype("float64")).sum(axis=1)) * 50
    coefficient = (rng.uniform(30, 60, CHANNELS) / spread).astype("float32")
    return weight, coefficient, rng.uniform(-400, 400, CHANNELS).astype("float32")


@pytest.mark.parametrize("limits", [(-128, 127), (-100, 90), (0, 6)])
@pytest.mark.parametrize("size", [9, 64, 800])
def test_every_sum_is_rounded_to_the_same(size, limits):
    weight, coefficient, bias = layer(size)
    rounding = Rounding((None,), None, limits, "int8", True, small=True)
    rounding, (c, b, ones) = begun(rounding, [coefficient, bias], weight)
    assert rounding.begun and ones.dtype == np.int32
    for channel, most in enumerate(128 * abs(weight.astype("int64")).sum(axis=1)):
        sums = np.arange(-most, most + 1)
        expected = multiply_add(coefficient[channel], sums, bias[channel])
        fractions = (ones[channel] + sums).astype("int32").view("float32")
        found = multiply_add(c[channel], fractions, b[channel])
        np.testing.assert_array_equal(np.clip(np.rint(found), *limits), np.clip(np.rint(expected), *limits))


def test_one_number_for_all_channels_becomes_one_for_each():
    weight, coefficient, bias = layer(64)
    rounding = Rounding((float(coefficient[0]),), float(bias[0]), (-128, 127), "int8", True, small=True)
    made, (c, b, ones) = begun(rounding, [], weight)
    assert made.coefficients == (None,) and made.bias is None
    assert c.shape == b.shape == ones.shape == (CHANNELS,) and set(c) == {coefficient[0]}


@pytest.mark.parametrize(
    "rounding",
    [
        Rounding((None,), None, (-128, 127), "int8", True),
        Rounding((None, 0.5), None, (-128, 127), "int8", True, small=True),
    ],
    ids=["large", "a residual"],
)
def test_other_roundings_stay_as_they_are(rounding):
    weight, coefficient, bias = layer(64)
    assert begun(rounding, [coefficient, bias], weight) is None


def test_sums_without_room_stay_as_they_are():
    weight = np.full((1, 258), 127, "int8")  # 258 * 127 * 128: as many as there are
    numbers = [np.array([number], "float32") for number in (1e-4, 0.0)]
    assert begun(Rounding((None,), None, (-128, 127), "int8", True, small=True), numbers, weight) is None


def test_the_first_multiple_within_bounds():
    rng = np.random.default_rng(0)
    for _ in range(200):
        modulus = int(rng.integers(2, 60))
        a, low = (int(rng.integers(0, modulus)) for _ in range(2))
        high = int(rng.integers(low, modulus))
        found = [x for x in range(modulus) if low <= a * x % modulus <= high]
        assert first_multiple(a, modulus, low, high) == (found[0] if found else None)
