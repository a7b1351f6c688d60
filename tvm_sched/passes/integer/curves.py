"""SiLU, GELU and sigmoid of a value of a quantised network, as far as 8 bits show them.

    silu(y)    = max(y, 0) - g(|y|),   g(a) = a / (1 + e^a)
    gelu(y)    = max(y, 0) - g(|y|),   g(a) = a / 2 erfc(a / sqrt 2), or what its approximation by tanh makes of it
    sigmoid(y) = g(|y|), of y > 0: 1 - g(|y|),   g(a) = 1 / (1 + e^a)

g falls to nothing within a few units, and is a polynomial there: interpolated at Chebyshev's points, of the least
degree by which the result is within a 128th of a step of the scale that it is quantised by. So neither an exponential
nor a division is left, which cost more than what they are fused behind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import erfc, sqrt

import numpy as np
from numpy.polynomial import Chebyshev
from tvm import relax, tirx
from tvm.relax import Expr

from tvm_sched.passes.integer.linear_form import INT32, Linear, emit, requantize

WITHIN = 1 / 128  # of a step
MOST_DEGREE = 24
FAR = 40.0  # where nothing of any g is left


def of_silu(a: np.ndarray) -> np.ndarray:
    """g."""
    return a / (1 + np.exp(a))


def of_gelu(a: np.ndarray) -> np.ndarray:
    """g."""
    return a / 2 * np.vectorize(erfc)(a / sqrt(2))


def of_gelu_tanh(a: np.ndarray) -> np.ndarray:
    """g."""
    return a / 2 * (1 - np.tanh(sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def of_sigmoid(a: np.ndarray) -> np.ndarray:
    """g."""
    return 1 / (1 + np.exp(a))


SILU, SIGMOID = "relax.nn.silu", "relax.sigmoid"
FALLING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    SILU: of_silu,
    "relax.nn.gelu": of_gelu,
    "relax.nn.gelu_tanh": of_gelu_tanh,
    SIGMOID: of_sigmoid,
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Such a function of a sum of integers, not yet computed."""

    value: Linear
    name: str  # of Relax's operator
    call: relax.Call  # as the network has it


@dataclass(frozen=True)
class Bend:
    """A curve in steps of its result, of v = 2 y / reach: max(v, 0) * rise + P(u), with u = min(|v|, 2) - 1; or, where
    there is no rise, P(u), of v > 0: mirror - P(u).
    """

    reach: float
    rise: float | None
    mirror: float
    coefficients: tuple[float, ...]  # of P, the highest power first

    def __call__(self, value: Expr) -> Expr:
        """Of a float32 number."""
        v, u = tirx.Var("v", "float32"), tirx.Var("u", "float32")
        size = tirx.Select(tirx.abs(v) < number(2.0), tirx.abs(v), number(2.0)) - number(1.0)
        polynomial: Expr = number(self.coefficients[0])
        for coefficient in self.coefficients[1:]:
            polynomial = polynomial * u + number(coefficient)
        if self.rise is None:
            result = tirx.Select(v > number(0.0), number(self.mirror) - polynomial, polynomial)
        else:
            result = tirx.Select(v > number(0.0), v, number(0.0)) * number(self.rise) + polynomial
        return tirx.Let(v, value, tirx.Let(u, size, result))


@lru_cache(maxsize=1 << 10)
def bend(name: str, scale: float, zero_point: int) -> Bend | None:
    """The curve of that name, quantised so; None where no polynomial is as near as it must be."""
    falling, near = FALLING[name], scale * WITHIN / 2
    a = np.linspace(0, FAR, 1 << 13)
    reach = float(a[np.flatnonzero(falling(a) > near).max(initial=0) + 1])
    inside = a[a <= reach]
    for degree in range(2, MOST_DEGREE + 1):
        found = Chebyshev.interpolate(falling, degree, domain=[0, reach])
        if np.abs(found(inside) - falling(inside)).max() <= near:
            break
    else:
        return None
    sigmoid = falling is of_sigmoid
    powers = Chebyshev(found.coef).convert(kind=np.polynomial.Polynomial).coef / scale * (1 if sigmoid else -1)
    powers[0] += zero_point
    coefficients = tuple(float(each) for each in powers[::-1].astype("float32"))
    if sigmoid:
        return Bend(reach, None, float(np.float32(1 / scale + 2 * zero_point)), coefficients)
    return Bend(reach, float(np.float32(reach / 2 / scale)), 0.0, coefficients)


def curved(builder: relax.BlockBuilder, curve: Curve, scale: float, zero_point: int, dtype: str) -> relax.Expr | None:
    """clip(round(curve / scale + zero_point)) in an 8-bit type; None where no polynomial will do."""
    bent = bend(curve.name, scale, zero_point)
    if bent is None:
        return None
    value = curve.value.times(np.float64(2 / bent.reach))
    assert value is not None  # as it is not clipped
    limits = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    most = value.most * (bent.rise or 0.0) + sum(map(abs, bent.coefficients))
    return emit(builder, requantize, value, limits=limits, dtype=dtype, fits=most < INT32, curve=bent)


def number(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")
