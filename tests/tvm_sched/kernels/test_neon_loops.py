"""The machine code of the main loops for NEON: no stack, scalars from lanes, bound by multiply-adds."""

from dataclasses import replace

import pytest

from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.estimation import machine_model, main_loops
from tvm_sched.estimation.main_loops import Case
from tvm_sched.kernels import depthwise_conv2d, direct_conv2d
from tvm_sched.kernels.base import Example

A76 = replace(targets.CORTEX_A76, cores=1)
DIRECT, DEPTHWISE = direct_conv2d.KERNEL, depthwise_conv2d.KERNEL


def has_model() -> bool:
    try:
        machine_model.require(A76)
    except UserError:
        return False
    return True


def least_bound(case: Case) -> float:
    """The share of the bound by multiply-adds that a main loop reaches at least."""
    return 0.8 if case.kernel is DEPTHWISE else 0.9  # storing its few sums takes the same pipes


@pytest.mark.parametrize("case", main_loops.CASES, ids=str)
def test_main_loops_keep_to_registers_and_are_bound_by_multiply_adds(case):
    tile, loop = main_loops.of(case, A76)
    assert loop.stack == 0, tile
    assert not any("\tdup\t" in line for line in loop.body)
    if case.kernel is not DEPTHWISE:
        # A pixel, or a weight, whose address has no offset is loaded into all lanes at once ('ld1r'): as good, and so
        # no lane is named.
        spread = sum("\tld1r\t" in line for line in loop.body)
        assert loop.by_element == loop.fmas or spread
        assert loop.by_element >= loop.fmas / 2
    if has_model():
        assert loop.fma_bound(A76) >= least_bound(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(DIRECT, Example(4, False, 3, 2)),
        Case(DIRECT, Example(8, False, 3, 2)),
        Case(DIRECT, Example(16, False, 3, 2)),
        Case(DIRECT, Example(8, True, 3, 2)),
        Case(DIRECT, Example(8, False, 1, 1)),
        Case(DIRECT, Example(16, True, 3, 1)),
    ],
    ids=str,
)
def test_no_tile_that_tuning_tries_spills(case):
    form = main_loops.form_of(case, A76)
    mod = main_loops.function_of(form)
    tiles = {(tile.rows, tile.cols, tile.block_rows): tile for tile in case.kernel.tiles(form.problem, A76)}
    for tile in list(tiles.values())[:5]:
        loop = machine_model.main_loop_of(case.kernel, mod, tile, A76)
        assert loop is None or loop.stack == 0, tile
