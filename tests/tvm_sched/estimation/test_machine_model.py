"""The machine model: loops cut out of assembly, what they hold, what llvm-mca says of them."""

import shutil

import pytest

from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.estimation import machine_model
from tvm_sched.estimation.machine_model import innermost_loops, main_loop

A76 = targets.CORTEX_A76
NESTED = """
f:                                      // @f
\t.cfi_startproc
// %bb.0:
\tmov\tx8, xzr
.LBB0_1:                                // outer
\tldr\tq9, [sp, #16]
.LBB0_2:                                // inner
                                        //   Parent Loop BB0_1
\tldr\tq0, [x1], #16
\tldr\ts1, [x2, #4]
\tfmla\tv16.4s, v0.4s, v1.s[0]
\tfmla\tv17.4s, v0.4s, v2.4s
\tcbnz\tx3, .LBB0_2
// %bb.3:
\tadd\tx8, x8, #1
\tb.ne\t.LBB0_1
.LBB0_4:
\tldr\tq1, [sp]
\tfadd\tv0.4s, v0.4s, v1.4s
\tfmla\tv0.4s, v0.4s, v1.4s
\tstr\tq0, [x1], #16
\tsubs\tx4, x4, #1
\tb.eq\t.LBB0_5
\tb\t.LBB0_4
.LBB0_5:
\tret
"""


@pytest.fixture(scope="module")
def model():
    try:
        machine_model.require(A76)
    except UserError as error:
        pytest.skip(str(error))


def fmas(count: int, registers: int) -> str:
    """A loop of so many multiply-adds, in turn into so many registers."""
    body = "".join(f"\tfmla\tv{i % registers}.4s, v30.4s, v31.s[0]\n" for i in range(count))
    return f".LBB0_1:\n{body}\tsubs\tx0, x0, #1\n\tb.ne\t.LBB0_1\n"


def test_innermost_loops_are_found_with_their_instructions():
    inner, last = innermost_loops(NESTED)
    assert (len(inner.body), inner.fmas, inner.by_element, inner.stack) == (5, 2, 1, 0)
    assert (len(last.body), last.fmas, last.by_element, last.stack) == (7, 1, 0, 1)


def test_the_main_loop_is_the_one_of_multiply_adds():
    assert main_loop(NESTED) == innermost_loops(NESTED)[0]
    assert main_loop("f:\n\tret\n") is None


def test_two_multiply_adds_start_a_cycle(model):
    (loop,) = innermost_loops(fmas(24, 24))
    assert loop.cycles(A76) == pytest.approx(12, rel=0.02)
    assert loop.fma_bound(A76) == pytest.approx(1, rel=0.02)


def test_one_register_waits_for_itself(model):
    (loop,) = innermost_loops(fmas(8, 1))
    assert loop.cycles(A76) > 1.9 * 8


@pytest.mark.parametrize("name", ["x86-avx512", "apple-m1"])
def test_a_core_without_a_model_is_told(name):
    with pytest.raises(UserError, match=f"no model of the pipes of '{name}'"):
        machine_model.require(targets.get(name))


def test_a_missing_or_old_tool_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="llvm-mca 19 or later is not here: 'apt-get install llvm-19' brings it"):
        machine_model.command.__wrapped__()
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/llvm-mca")
    monkeypatch.setattr(machine_model, "version", lambda path: 14)
    with pytest.raises(UserError, match="llvm-mca 19 or later"):
        machine_model.command.__wrapped__()
