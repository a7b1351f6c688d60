"""What counts as agreeing."""

from math import inf

import numpy as np
import pytest

from tvm_sched.verification.comparison import absolute_errors, blindness, compare

NAN = np.nan


def test_the_limit_grows_with_outputs_beyond_unit_scale():
    assert compare(np.float32([100.05, 0]), np.float32([100, 0])).holds
    agreement = compare(np.float32([1.05]), np.float32([1]))
    assert not agreement.holds and agreement.words == "differs from PyTorch by 5.00e-02, more than 1.00e-03"
    assert agreement.excess == pytest.approx(50, rel=1e-5)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.float32([NAN, inf, -inf, 1]), np.float32([NAN, inf, -inf, 1.0005])),
        (np.int64([1, 2]), np.int64([1, 2])),
        (np.array([True, False]), np.array([True, False])),
        (np.zeros((2, 0), "float32"), np.zeros((2, 0), "float32")),
        (np.float32(2), np.float32(2)),
    ],
)
def test_what_is_equal(output, expected):
    assert compare(np.asarray(output), np.asarray(expected)).holds


@pytest.mark.parametrize(
    ("output", "expected", "words"),
    [
        (np.float32([NAN, 1]), np.float32([1, 1]), "is NaN or infinite, or that of PyTorch is, in 1 of 2 numbers"),
        (np.float32([2e38, 1]), np.float32([inf, 1]), "is NaN or infinite"),
        (np.float32([inf, 1]), np.float32([-inf, 1]), "is NaN or infinite"),
        (np.int64([1, 5, 3]), np.int64([1, 2, 2]), "differs from PyTorch in 2 of 3 numbers"),
        (np.int64([2**53 + 1]), np.int64([2**53]), "differs from PyTorch in 1 of 1 numbers"),
        (np.array([True]), np.array([False]), "differs from PyTorch in 1 of 1 numbers"),
        (np.float32([[1]]), np.float32([1]), r"is [1, 1] of float32, that of PyTorch [1] of float32"),
        (np.float64([1]), np.float32([1]), r"is [1] of float64, that of PyTorch [1] of float32"),
    ],
)
def test_what_departs_and_in_which_words(output, expected, words):
    agreement = compare(output, expected)
    assert not agreement.holds and agreement.words.startswith(words)
    assert agreement.excess > 1


def test_errors_are_exact_in_what_float32_cannot_hold():
    errors = absolute_errors(np.float32([3e38, NAN, 1]), np.float32([-3e38, NAN, 1]))
    np.testing.assert_allclose(errors, [6e38, 0, 0], rtol=1e-6)


def test_outputs_that_would_hide_errors():
    one, other = [np.float32([0, 1])], [np.float32([1, 0])]
    assert blindness([one, other], alike=False) == ""
    assert blindness([one, one], alike=False) == "they are the same for different inputs"
    assert blindness([one, one], alike=True) == ""
    zeros = [np.zeros(3, "float32"), np.zeros(2, "int64")]
    assert blindness([zeros, zeros], alike=False) == "they are all zero"
    assert blindness([[np.float32([NAN, inf])]] * 2, alike=False) == "none of them is a finite number"
    assert blindness([[*one, np.zeros(2)], [*other, np.zeros(2)]], alike=False) == ""
