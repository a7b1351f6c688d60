"""exp, sigmoid, tanh and erf in arithmetic that vectorises.

LLVM has no vector form of these: it takes a vector apart and calls libm for each lane, 2 to 8 ns a number, which in a
network of SiLU or GELU costs more than its convolutions. Here they are polynomials of float32 multiply-adds, under 0.5
ns a number:

    exp(x) = 2^n * exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2      Cephes' expf; relative error below 2e-7
    sigmoid(x) = 1 / (1 + exp(-x))
    tanh(x), erf(x) = x * P(x^2) / Q(x^2) on the range where they are not yet 1     Eigen's; absolute error below 1e-6

At infinities and of NaN they are what PyTorch's are, as masks of attention rely on. exp is 0 below -87.0, where
PyTorch's comes to numbers that are not normal.
"""

from math import e, log, log2

import tvm_ffi
from tvm import ir, tirx
from tvm.tirx import PrimFunc

EXP_RANGE = (-126.4 * log(2), 128.4 * log(2))  # as 2^(n - 1) is built, it is 0 for n = -126; 2^127 for n = 128
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; n * LN2_HIGH is exact
EXP = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)  # of r^5 ... r^0
TANH_LIMIT, ERF_LIMIT = 9.0, 4.0
TANH_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def vector_math(func: PrimFunc) -> PrimFunc:
    """The function with its float32 calls rewritten."""
    return tvm_ffi.structural_map(func, (ir.Call, rewrite))


def rewrite(call: ir.Call):
    """The polynomial of a call that has one; any other call as it is."""
    function = FUNCTIONS.get(getattr(call.op, "name", ""))
    return function(*call.args) if function and call.args[0].ty.dtype == "float32" else call


def exp(x):
    """e^x."""

    def of_bounded(t):
        return named("n", tirx.floor(t * number(log2(e)) + number(0.5)), lambda n: of_exponent(t, n))

    def of_exponent(t, n):
        half = tirx.reinterpret("float32", (n.astype("int32") + 126) << 23)  # of 2^n, which there is not for n = 128
        return named(
            "r",
            t - n * number(LN2_HIGH) - n * number(LN2_LOW),
            lambda r: (polynomial(EXP, r) * r * r + r + number(1)) * half * number(2),
        )

    return named("t", bounded(x, *EXP_RANGE), of_bounded)


def sigmoid(x):
    """1 / (1 + e^-x)."""
    return number(1) / (number(1) + exp(number(0) - x))


def tanh(x):
    """Hyperbolic tangent."""
    return odd_quotient(x, TANH_LIMIT, TANH_P, TANH_Q)


def erf(x):
    """The error function, which GELU needs."""
    return odd_quotient(x, ERF_LIMIT, ERF_P, ERF_Q)


def power(base, exponent):
    """Small whole powers as products; others call libm."""
    if isinstance(exponent, tirx.FloatImm) and exponent.value in (2.0, 3.0):
        return named("t", base, lambda t: t * t if exponent.value == 2.0 else t * t * t)
    return tirx.power(base, exponent)


def odd_quotient(x, limit: float, over: tuple, under: tuple):
    """t * P(t^2) / Q(t^2) of x, bounded to +-limit."""

    def of_bounded(t):
        return named("s", t * t, lambda s: t * polynomial(over, s) / polynomial(under, s))

    return named("t", bounded(x, -limit, limit), of_bounded)


def bounded(x, low: float, high: float):
    """x between two bounds; NaN stays NaN, by the last of all passes (nonfinite/propagate_nan.py)."""
    return tirx.max(tirx.min(x, number(high)), number(low))


def polynomial(coefficients: tuple, x):
    """By Horner's rule, highest power first."""
    value = number(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + number(coefficient)
    return value


def named(name: str, value, body):
    """`body` of a value that is computed once."""
    var = tirx.Var(name, "float32")
    return tirx.Let(var, value, body(var))


def number(value: float):
    """A float32 constant."""
    return tirx.const(value, "float32")


FUNCTIONS = {"tirx.exp": exp, "tirx.sigmoid": sigmoid, "tirx.tanh": tanh, "tirx.erf": erf, "tirx.pow": power}
