"""The larger and the smaller of two fractions as PyTorch has them: NaN where one of them is.

TVM's are `a > b ? a : b`, which is b where one is NaN, and TVM swaps operands as it likes. So ReLU, clamp, and pooling
would make ordinary numbers of NaN. Here, where nothing swaps them any more:

    max(x, 0)     0 > x ? 0 : x              x86: one instruction, `vmaxps` gives the second where one is NaN
    max(a, b)     isnan(a) ? a : (a > b ? a : b)     three
    AArch64       llvm.maximum, which is one: `fmax`, where a comparison and a choice are two

An operand stands twice in the first, four times in a clamp, and LLVM computes it once; in the second each has a name.
TVM's code generator puts a name's value wherever the name stands, when it looks for what it could simplify: names
within names cost it seconds (15 for SiLU and tanh). What holds names or more choices already, as polynomials of exp do,
so takes llvm.maximum on x86 too, which is two instructions more for 0 and none for others.
"""

from collections.abc import Callable
from math import isnan

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx import PrimFunc

AARCH64 = "aarch64"
FLOATS = ("float16", "float32", "float64")
INTRINSICS = {tirx.Max: "llvm.maximum", tirx.Min: "llvm.minimum"}
COMPARISONS = {tirx.Max: tirx.GT, tirx.Min: tirx.LT}


def propagate_nan(func: PrimFunc) -> PrimFunc:
    """The function with its extremes of fractions, scalars and vectors, rewritten. To run as the last of all passes."""
    target = (func.attrs or {}).get("target") or Target.current()
    one = by_intrinsic if str(target.attrs.get("mtriple", "")).startswith((AARCH64, "arm64")) else by_comparison
    return tvm_ffi.structural_map(func, [(kind, one) for kind in INTRINSICS])


def is_fraction(extreme: tirx.Max | tirx.Min) -> bool:
    """Whether it is of floating-point numbers, one or a vector."""
    return str(extreme.ty.dtype).partition("x")[0] in FLOATS


def by_intrinsic(extreme: tirx.Max | tirx.Min) -> Expr:
    """LLVM's, where the CPU has it."""
    if not is_fraction(extreme):
        return extreme
    return tirx.call_llvm_pure_intrin(extreme.ty.dtype, INTRINSICS[type(extreme)], extreme.a, extreme.b)


def by_comparison(extreme: tirx.Max | tirx.Min) -> Expr:
    """Comparisons, whose order matters."""
    if not is_fraction(extreme):
        return extreme
    if is_composed(extreme):
        return by_intrinsic(extreme)
    a, b = (extreme.b, extreme.a) if is_number(extreme.b) else (extreme.a, extreme.b)
    beats = COMPARISONS[type(extreme)]

    if is_number(a):
        return tirx.Select(beats(a, b), a, b)

    def of(a: Expr, b: Expr) -> Expr:
        return tirx.Select(tirx.isnan(a), a, tirx.Select(beats(a, b), a, b))

    return named("a", a, lambda a: named("b", b, lambda b: of(a, b)))


def named(name: str, value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of a value that is computed once."""
    var = tirx.Var(name, value.ty.dtype)
    return tirx.Let(var, value, body(var))


def is_composed(value: Expr) -> bool:
    """Whether there are names in it, or choices beside that of a clamp's other bound."""
    found: list[Expr] = []
    kinds = [(kind, found.append) for kind in (tirx.Let, tirx.Select)]
    tvm_ffi.structural_walk(value, kinds, order="post")
    return any(isinstance(each, tirx.Let) for each in found) or len(found) > 1


def is_number(value: Expr) -> bool:
    """Whether it is a constant, or a vector of one, and no NaN."""
    number = value.value if isinstance(value, tirx.Broadcast) else value
    return isinstance(number, tirx.FloatImm) and not isnan(number.value)
