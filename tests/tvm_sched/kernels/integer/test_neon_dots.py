"""The machine code of the integer kernels' main loops for NEON: dot products by element, no stack."""

import re

import pytest
from integer_run import CONV2D, TARGETS, Convolution, function_of
from te_run import scheduled

from tvm_sched import codegen
from tvm_sched.estimation.machine_model import Loop, innermost_loops

DOT = re.compile(r"\tsdot\tv\d+\.4s, v\d+\.16b, v\d+\.(?:4b\[\d\]|16b)$")


def dots(loop: Loop) -> int:
    """Dot products a step."""
    return sum(bool(DOT.match(line)) for line in loop.body)


@pytest.mark.parametrize("rounding", ["", "each"])
@pytest.mark.parametrize(
    "case",
    [
        Convolution(128, 128, (28, 28), (1, 1), density=0.25),
        Convolution(128, 128, (28, 28), (3, 3), padding=(1, 1, 1, 1), density=0.25),
    ],
    ids=["1x1", "3x3"],
)
def test_main_loops_are_dot_products_of_registers(case, rounding):
    target = TARGETS["cortex-a76"]
    function = function_of(case, target, rounding=rounding)
    assembly = codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, target).mod, target))
    loop = max(innermost_loops(assembly), key=dots)
    assert dots(loop) >= 16
    assert loop.stack == 0
    loads = sum("\tld" in line for line in loop.body)
    assert loads < dots(loop)
