"""Instructions for which TVM has no words, as LLVM's own: functions of a few lines that become part of those that call
them. Numbers of bfloat16 are rounded here (`kernels/integer/bfloats.py`), and multiplied (`kernels/integer/dots.py`).
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from tvm_sched.kernels.integer import bfloats, dots

IMPORT = "pragma_import_llvm"  # TVM's annotation
ATTRIBUTES = 'alwaysinline "target-features"="+avx512bf16"'
DOT_OF_BFLOATS = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @{dots.BFLOAT.intrinsic}(<16 x float> %sums, <32 x i16> %x, <32 x i16> %w) {ATTRIBUTES} {{
  %xs = bitcast <32 x i16> %x to <32 x bfloat>
  %ws = bitcast <32 x i16> %w to <32 x bfloat>
  %made = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %xs, <32 x bfloat> %ws)
  ret <16 x float> %made
}}
"""


def import_code(func: PrimFunc) -> PrimFunc:
    """The function with the code of what it calls. To run when its loops are lowered."""
    target = (func.attrs or {}).get("target") or Target.current()
    called: set[str] = set()

    def rounded(call: ir.Call) -> ir.Expr:
        return bfloats.lowered(call, target) if bfloats.is_rounding(call) else call

    def note(call: ir.Call) -> None:
        if getattr(call.op, "name", "") == "tirx.call_pure_extern":
            called.add(str(call.args[0].value))

    func = tvm_ffi.structural_map(func, (ir.Call, rounded))
    tvm_ffi.structural_walk(func.body, (ir.Call, note), order="post")
    body = func.body
    for code in filter(None, map(code_of, sorted(called))):
        body = tirx.AttrStmt(tirx.const(0, "int32"), IMPORT, ir.StringImm(code), body)
    return func if body is func.body else func.with_body(body)


def code_of(name: str) -> str:
    """LLVM's code of the function of that name; empty where it has none of ours."""
    if name == dots.BFLOAT.intrinsic:
        return DOT_OF_BFLOATS
    return rounding(int(name.removeprefix(bfloats.ROUNDED))) if name.startswith(bfloats.ROUNDED) else ""


def rounding(lanes: int) -> str:
    """That of the rounding of so many numbers."""
    floats, numbers, whole = (f"<{lanes} x {kind}>" if lanes > 1 else kind for kind in ("float", "bfloat", "i16"))
    return f"""
define {whole} @{bfloats.ROUNDED}{lanes}({floats} %numbers) {ATTRIBUTES} {{
  %rounded = fptrunc {floats} %numbers to {numbers}
  %bits = bitcast {numbers} %rounded to {whole}
  ret {whole} %bits
}}
"""
