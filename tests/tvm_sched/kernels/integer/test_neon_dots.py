"""The machine code of the integer kernels' loops for NEON: dot products by element, no stack; what is interleaved by
registers, and rounded as it is converted.
"""

import re

import pytest
from integer_run import CONV2D, TARGETS, Convolution, function_of
from te_run import scheduled

from tvm_sched import codegen
from tvm_sched.estimation.machine_model import Loop, innermost_loops

RESIDUAL_OF_BYTES = 2  # a seed of `integer_run.with_residual`
DOT = re.compile(r"\tsdot\tv\d+\.4s, v\d+\.16b, v\d+\.(?:4b\[\d\]|16b)$")


def dots(loop: Loop) -> int:
    """Dot products a step."""
    return sum(bool(DOT.match(line)) for line in loop.body)


def assembly_of(case: Convolution, target: str, rounding: str) -> str:
    """Of the layer, by its default tile."""
    function = function_of(case, TARGETS[target], rounding=rounding)
    return codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, TARGETS[target]).mod, TARGETS[target]))


@pytest.mark.parametrize("target", ["cortex-a76", "cortex-a72"])
def test_sums_are_rounded_as_they_are_converted_and_channels_interleaved_by_stores(target):
    assembly = assembly_of(Convolution(128, 128, (28, 28), (1, 1), density=0.25), target, "each")
    assert "fcvtns" in assembly and "frintx" not in assembly
    assert "tbl" not in assembly  # bytes looked up across registers
    loops = [loop for loop in innermost_loops(assembly) if any("\tst4\t" in line for line in loop.body)]
    assert (len(loops) == 1) == (target == "cortex-a76") and all(loop.stack == 0 for loop in loops)


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_small_sums_are_rounded_by_additions_four_vectors_at_a_time(size, seed):
    case = Convolution(128, 128, (28, 28), (size, size), padding=(size // 2,) * 4, density=0.25, seed=seed)
    assembly = assembly_of(case, "cortex-a76", "each")
    assert not re.search(r"\t(scvtf|fcvtns|xtn)\t", assembly)
    assert not re.search(r"\tadd\tv", assembly)  # sums began with what is added to them
    vectors, narrowed, additions = (len(re.findall(rf"\t{name}2?\t", assembly)) for name in ("fmla", "sqxtn", "fadd"))
    assert 0 < narrowed < vectors
    assert (additions <= vectors) == (seed == 1)  # where they began as fractions


def test_a_residual_of_bytes_becomes_fractions_without_conversions():
    case = Convolution(64, 64, (14, 14), (1, 1), density=0.5, seed=RESIDUAL_OF_BYTES)
    assembly = assembly_of(case, "cortex-a76", "residual")
    assert not re.search(r"\t(scvtf|fcvtns|sshll2?|xtn)\t", assembly)


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
    loop = max(innermost_loops(assembly_of(case, "cortex-a76", rounding)), key=dots)
    assert dots(loop) >= 16
    assert loop.stack == 0
    loads = sum("\tld" in line for line in loop.body)
    assert loads < dots(loop)
