"""Look-ups of bytes in tables of 256 against NumPy's, and the instructions that they become."""

from dataclasses import replace

import numpy as np
import pytest
from integer_run import TARGETS
from te_run import function, run
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched import codegen
from tvm_sched.kernels.integer import look_up
from tvm_sched.targets import Target

VBMI = replace(TARGETS["x86-avx512-vnni"], cpu="icelake-server")


def scheduled(count: int, dtype: str, target: Target) -> Schedule:
    """The function of so many numbers."""
    x, table = te.placeholder((count,), dtype), te.placeholder((look_up.ENTRIES,), dtype)
    sch = Schedule(function([x, table], look_up.look_up(x, table)))
    look_up.schedule(sch, target)
    return sch


@pytest.mark.parametrize(("name", "dtype"), [("host", "uint8"), ("x86-avx2", "uint8"), ("host", "int8")])
@pytest.mark.parametrize("count", [1, 64, 1000])
def test_every_number_finds_its_entry(name, dtype, count):
    rng, limits, target = np.random.default_rng(count), np.iinfo(dtype), TARGETS[name]
    x, table = (rng.integers(limits.min, limits.max, n, dtype, endpoint=True) for n in (count, look_up.ENTRIES))
    found = run(scheduled(count, dtype, target), target, [x, table], (count,), dtype)
    np.testing.assert_array_equal(found, table[x.astype(int) - limits.min])


@pytest.mark.parametrize(
    ("target", "dtype", "instructions"),
    [(VBMI, "uint8", ("vpermi2b", "vpermt2b")), (TARGETS["cortex-a76"], "int8", ("tbl", "tbx"))],
)
def test_numbers_are_looked_up_by_vectors(target, dtype, instructions):
    assembly = codegen.assembly(codegen.build(scheduled(256, dtype, target).mod, target))
    assert any(f"\t{each}\t" in assembly for each in instructions)
