"""exp, sigmoid, tanh and erf as polynomials, against double precision."""

import math

import numpy as np
import pytest
import tvm
from te_run import function, run
from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched import targets
from tvm_sched.kernels.generic import rules
from tvm_sched.passes.tir.each import each
from tvm_sched.passes.tir.vector_math import vector_math

FUNCTIONS = {
    "exp": (tirx.exp, np.exp),
    "sigmoid": (tirx.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (tirx.tanh, np.tanh),
    "erf": (tirx.erf, np.vectorize(math.erf)),
    "square": (lambda x: tirx.power(x, tirx.const(2.0, "float32")), np.square),
}


def computed(of_number, numbers: np.ndarray) -> tuple[tvm.IRModule, np.ndarray]:
    x = te.placeholder(numbers.shape, "float32")
    mod = each(vector_math)(function([x], te.compute(numbers.shape, lambda i: of_number(x[i]))))
    sch = Schedule(mod)
    rules.schedule(sch, targets.host())
    return mod, run(sch, targets.host(), [numbers], numbers.shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_precise(name):
    ours, exact = FUNCTIONS[name]
    numbers = np.concatenate([np.linspace(-20, 20, 20001), np.geomspace(1e-30, 20, 1000), [0]]).astype("float32")
    _, y = computed(ours, numbers)
    np.testing.assert_allclose(y, exact(numbers.astype("float64")), rtol=5e-7, atol=1e-12)


@pytest.mark.parametrize(
    "name, at_minus, at_plus", [("exp", 0, np.inf), ("sigmoid", 0, 1), ("tanh", -1, 1), ("erf", -1, 1)]
)
def test_functions_saturate(name, at_minus, at_plus):
    _, y = computed(FUNCTIONS[name][0], np.array([-np.inf, -1e30, -200, 200, 1e30, np.inf], "float32"))
    np.testing.assert_allclose(y[:3], at_minus, rtol=0, atol=1e-6 if name in ("tanh", "erf") else 0)
    np.testing.assert_allclose(y[3:], at_plus, rtol=1e-6)


@pytest.mark.parametrize("length", [3, 40])  # scalars, and vectors
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan(name, length):
    numbers = np.linspace(-1, 1, length).astype("float32")
    numbers[::3] = np.nan
    _, y = computed(FUNCTIONS[name][0], numbers)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(numbers))


def test_exp_near_its_ends():
    """Numbers that are not normal, and the first that are, become 0; nothing else is off."""
    numbers = np.concatenate([np.linspace(-110, -80, 3001), np.linspace(80, 88.7, 3001), [88.722, 88.73, 90, 1000]])
    numbers = numbers.astype("float32")
    _, y = computed(tirx.exp, numbers)
    with np.errstate(over="ignore"):
        exact = np.exp(numbers.astype("float64")).astype("float32")
    known = (exact > 1.7e-38) & np.isfinite(exact)
    np.testing.assert_allclose(y[known], exact[known], rtol=5e-7)
    assert (y[exact < 0.8e-38] < 1.2e-38).all() and (np.isinf(y) == np.isinf(exact)).all()


def test_no_call_of_the_mathematical_library_is_left():
    mod, _ = computed(lambda x: tirx.exp(x) + tirx.sigmoid(x) + tirx.tanh(x) + tirx.erf(x), np.zeros(4, "float32"))
    assert not any(f"T.{name}(" in mod.script() for name in ("exp", "sigmoid", "tanh", "erf"))


def test_other_types_keep_their_calls():
    x = te.placeholder((4,), "float64")
    mod = each(vector_math)(function([x], te.compute((4,), lambda i: tirx.exp(x[i]))))
    assert "T.exp(" in mod.script()
