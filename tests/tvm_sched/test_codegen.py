"""What our passes change in the machine code: weights are asked for early, sums stay in registers."""

import re
from dataclasses import replace

import pytest
import tvm
from te_run import function, tiles
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched import codegen, targets
from tvm_sched.kernels import direct_conv2d, winograd_conv2d
from tvm_sched.kernels.register_tile import Tile
from tvm_sched.kernels.rewrites.loops import PREFETCH
from tvm_sched.kernels.winograd_conv2d import WinogradTile
from tvm_sched.kernels.winograd_variants import Variant
from tvm_sched.passes.tir.flatten_indices import flatten_indices
from tvm_sched.passes.tir.insert_prefetches import AHEAD, insert_prefetches
from tvm_sched.passes.tir.marks import INTERNAL
from tvm_sched.passes.tir.widen_indices import widen_indices


def winograd(cores: int, groups: int = 1, target=targets.X86_AVX512, kept: int = 16):
    target = replace(target, cores=cores)
    x, u = te.placeholder((1, 14, 14, 64)), te.placeholder((6, 6, 4, kept, 16))
    indices = te.placeholder((4, kept), "int32")
    sch = Schedule(function([x, u, indices], winograd_conv2d.compute(x, u, indices, variant=Variant(4, 3))))
    winograd_conv2d.schedule(sch, WinogradTile(rows=2, cols=8, block_rows=groups), target)
    return sch, target


def direct(kernel: int, n: int = 16, target=targets.X86_AVX512, tile=None, stride=1):
    target = replace(target, cores=1)
    x, data = te.placeholder((1, 14, 14, 64)), te.placeholder((64 // n, 16, kernel, kernel, n))
    indices = te.placeholder((64 // n, 16), "int32")
    y = direct_conv2d.conv2d(x, data, indices, out_channels=64, padding=(kernel // 2,) * 4, stride=(stride, stride))
    sch = Schedule(function([x, data, indices], y))
    direct_conv2d.schedule(sch, tile or tiles(direct_conv2d.KERNEL, sch.mod, target)[0], target)
    return sch, target


def test_pixels_counted_by_one_loop_are_addressed_without_division():
    """A step of the loop over kept channels computes one address, its index; the tile's pixels are constants away."""
    sch, target = direct(1, tile=Tile(1, 7, 1, bands=14))
    assembly = codegen.build(sch.mod, target).mod.inspect_source("asm")
    steps = [body.split("\tj")[0] for body in re.split(r"^\.LBB\w+:", assembly, flags=re.MULTILINE)]
    steps = [step for step in steps if step.count("1to16") >= 7]
    assert steps and all(step.count("movslq") == 1 for step in steps)


def test_an_index_that_is_a_scalar_stays():
    x, at = te.placeholder((4, 6, 6, 8)), te.placeholder((), "int32")
    func = function([x, at], te.compute((36, 8), lambda p, c: x[at(), p // 6, p % 6, c]))["main"]
    assert "// 6" not in flatten_indices(func).script().split("T.writes")[-1]


def test_rows_and_columns_counted_by_two_loops_stay():
    sch, _ = direct(1, stride=2)
    assert flatten_indices(sch.mod["main"]).script() == sch.mod["main"].script()


@pytest.mark.parametrize("cores", [1, 2])
def test_sums_of_products_are_not_stored_in_the_loop(cores):
    """Between two loads of a channel's index no register is written to memory."""
    sch, target = winograd(cores)
    assembly = codegen.build(sch.mod, target).mod.inspect_source("asm")
    bodies = [
        body
        for body in re.split(r"^\.LBB\w+:", assembly, flags=re.MULTILINE)
        if "prefetcht1" in body and "1to16" in body
    ]
    assert bodies
    for body in bodies:
        step = body[: re.search(r"\tj\w+\t", body).end()]
        assert "vfmadd231ps" in step
        assert not re.search(r"vmov[au]ps\t%[xyz]mm\d+, ", step)


@pytest.mark.parametrize(
    "make, lines",
    [
        (lambda: winograd(1), 1),
        (lambda: winograd(1, groups=2), 2),
        (lambda: direct(1), 1),
        (lambda: direct(3), 9),
        (lambda: direct(1, n=32), 2),
        (lambda: direct(3, n=8), 18),  # of 4 channels, 9 taps of half a line each
        (lambda: direct(1, n=4, target=targets.CORTEX_A76), 1),  # of 4 channels
    ],
)
def test_every_line_of_weights_is_asked_for_once(make, lines):
    sch, _ = make()
    before, after = sch.mod["main"], insert_prefetches(sch.mod["main"])
    assert PREFETCH in before.script() and PREFETCH not in after.script()
    assert after.script().count("T.prefetch(") == lines
    assert f"+ {AHEAD // 4}]" in after.script()


def test_rows_side_by_side_are_asked_for_by_whole_groups():
    """Of two rows of AHEAD bytes the first would else ask for what the second is reading."""
    sch, _ = winograd(1, groups=2, kept=AHEAD // 64)
    assert insert_prefetches(sch.mod["main"]).script().count(f"+ {2 * AHEAD // 4}]") == 2


@pytest.mark.parametrize("kernel, wide", [(1, True), (3, False)])
def test_a_loaded_index_is_wide_where_the_rest_of_the_address_leaves_the_loop(kernel, wide):
    sch, _ = direct(kernel)
    assert ('"int64"' in widen_indices(sch.mod["main"]).script()) == wide


def test_arm_asks_with_its_own_instruction():
    sch, target = direct(1, n=8, target=targets.CORTEX_A76)
    assert "prfm\tpldl2keep" in codegen.build(sch.mod, target).mod.inspect_source("asm")


def test_an_internal_function_holds_no_tests_of_its_arguments():
    sch, target = direct(1)
    internal = tvm.IRModule({"main": sch.mod["main"].with_attr(INTERNAL, True)})
    sources = [codegen.assembly(codegen.build(mod, target)) for mod in (sch.mod, internal)]
    assert ["Mismatched" in source for source in sources] == [True, False]
    assert len({source.count("vfmadd231ps") for source in sources}) == 1
