"""Instructions for which TVM has no words, as LLVM's own: functions of a few lines that become part of those that call
them.
"""

import tvm_ffi
from tvm import ir, tirx
from tvm.tirx import PrimFunc

IMPORT = "pragma_import_llvm"  # TVM's annotation
DOT_OF_BFLOATS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @subp_dot_of_bfloats(<16 x float> %sums, <32 x i16> %x, <32 x i16> %w)
    alwaysinline "target-features"="+avx512bf16" {
  %xs = bitcast <32 x i16> %x to <32 x bfloat>
  %ws = bitcast <32 x i16> %w to <32 x bfloat>
  %made = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %xs, <32 x bfloat> %ws)
  ret <16 x float> %made
}
"""
CODE = {"subp_dot_of_bfloats": DOT_OF_BFLOATS}  # by the function's name


def import_code(func: PrimFunc) -> PrimFunc:
    """The function with the code of what it calls. To run when its loops are lowered."""
    called: set[str] = set()

    def note(call: ir.Call) -> None:
        if getattr(call.op, "name", "") == "tirx.call_pure_extern":
            called.add(str(call.args[0].value))

    tvm_ffi.structural_walk(func.body, (ir.Call, note), order="post")
    body = func.body
    for name in sorted(called & CODE.keys()):
        body = tirx.AttrStmt(tirx.const(0, "int32"), IMPORT, ir.StringImm(CODE[name]), body)
    return func.with_body(body) if called & CODE.keys() else func
