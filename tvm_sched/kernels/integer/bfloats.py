"""Numbers of bfloat16 as their bits, in whole numbers of 16 bits: TVM computes its own type in float32, and cuts the
low bits off where it stores it.

`to_bits` is a call until the code is all but machine code, when `lowered` makes it the CPU's instruction, or plain
arithmetic: the call has the name of LLVM's rounding to that other type of 16 bits, which is vectors as soon as its
operand is, and which nothing here uses.
"""

from functools import cache

import numpy as np
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.target.codegen import llvm_lookup_intrinsic_id, target_has_features

BITS = "uint16"
HIGH, ROUND, QUIET = 16, 0x7FFF, 0x7FC0  # where the bits lie in a float32's; half a step less one; a NaN's
FEATURE = "avx512bf16"
CALL = "llvm.convert.to.fp16"
ROUNDED = "subp_rounded_to_bfloats_"  # with the number of lanes: a function of LLVM code (`passes/tir/import_code`)


def of_lanes(value: Expr, dtype: str) -> str:
    """The type with as many lanes as the value."""
    lanes = int(value.ty.dtype.lanes)
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def to_float(bits: Expr) -> Expr:
    """The float32 of these bits."""
    wide = bits.astype(of_lanes(bits, "uint32"))
    return tirx.reinterpret(of_lanes(bits, "float32"), wide << tirx.const(HIGH, wide.ty.dtype))


def to_bits(value: Expr) -> Expr:
    """The nearest number's bits, the even one's of two; of NaN one's."""
    return tirx.call_llvm_pure_intrin(of_lanes(value, BITS), CALL, value)


@cache
def call_number() -> int:
    """LLVM's number of CALL."""
    return int(llvm_lookup_intrinsic_id(CALL))


def is_rounding(call: Call) -> bool:
    """Whether a call is one of `to_bits`."""
    return getattr(call.op, "name", "") == "tirx.call_llvm_pure_intrin" and int(call.args[0].value) == call_number()


def lowered(call: Call, target) -> Expr:
    """A call of `to_bits` for a TVM target."""
    value = call.args[-1]
    if not target_has_features(FEATURE, target):
        return arithmetic(value)
    return tirx.call_pure_extern(call.ty.dtype, f"{ROUNDED}{int(value.ty.dtype.lanes)}", value)


def arithmetic(value: Expr) -> Expr:
    """`to_bits` for any CPU."""
    bits = tirx.reinterpret(of_lanes(value, "uint32"), value)

    def number(value: int) -> Expr:
        return tirx.const(value, bits.ty.dtype)

    rounded = (bits + number(ROUND) + ((bits >> number(HIGH)) & number(1))) >> number(HIGH)
    return tirx.Select(tirx.isnan(value), number(QUIET), rounded).astype(of_lanes(value, BITS))


def bits_of(array: np.ndarray) -> np.ndarray:
    """`to_bits` of an array."""
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    rounded = (bits + np.uint32(ROUND) + ((bits >> HIGH) & 1)) >> HIGH
    return np.where(np.isnan(array), QUIET, rounded).astype(BITS)


def floats_of(bits: np.ndarray) -> np.ndarray:
    """`to_float` of an array."""
    return (bits.astype("uint32") << HIGH).view("float32")
