"""How evenly threads share scheduled functions: their parallel loops are counted, and what a compiled network tells of
them agrees with what it does.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from tvm import IRModule
from tvm.script import tirx as T

import tvm_sched
from tvm_sched import targets
from tvm_sched.kernels.rewrites.loops import pieces, share, worth_threads
from tvm_sched.planning.sharing import ParallelLoop, SharedCall, busiest, busiest_rows, parallel_loops, weighted

FOUR = replace(targets.X86_AVX512, cores=4)
SHARED = {"even": (ParallelLoop(4, 1),), "uneven": (ParallelLoop(4, 1), ParallelLoop(3, 1)), "alone": ()}


@T.prim_func(s_tir=True)
def stages(a: T.Buffer((6, 8), "float32"), b: T.Buffer((6, 8), "float32")):
    for band in range(3):
        for i in T.parallel(2):
            for j in range(8):
                a[band * 2 + i, j] = 1.0
        for j in T.parallel(8):
            b[band, j] = a[band, j]
    for i in T.parallel(6):
        b[i, 0] = 0.0


def test_loops_inside_others_run_as_often_as_these():
    loops = parallel_loops(IRModule({"main": stages})["main"])
    assert loops == [ParallelLoop(2, 3), ParallelLoop(8, 3), ParallelLoop(6, 1)]
    assert SharedCall("stages", tuple(loops)).launches == 7


@pytest.mark.parametrize(("extent", "threads", "ratio"), [(7, 2, 8 / 7), (8, 2, 1), (1, 4, 4), (49, 4, 52 / 49)])
def test_the_busiest_thread_has_whole_steps(extent, threads, ratio):
    assert busiest(extent, threads) == pytest.approx(ratio)
    assert share(extent, threads) * threads == pytest.approx(ratio)


def test_a_network_weighs_its_calls():
    even, uneven, alone = (SharedCall(name, loops) for name, loops in SHARED.items())
    assert (even.busiest(2), uneven.busiest(2), alone.busiest(2)) == (1, 4 / 3, 2)
    assert weighted([(even, 3.0), (uneven, 3.0), (alone, 0.0)], 2) == pytest.approx(7 / 6)
    assert weighted([], 2) == 1


def test_calls_survive_a_manifest():
    for name, loops in SHARED.items():
        call = SharedCall(name, loops)
        assert SharedCall.from_json(call.to_json()) == call


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ((1, 56, 6, 2), (2, 1)),  # rows suffice: as few bands as threads
        ((1, 7, 24, 2), (1, 2)),  # seven rows do not divide, channels do
        ((1, 7, 24, 8), (1, 8)),
        ((4, 7, 24, 4), (1, 1)),  # an image each
        ((1, 7, 5, 1), (1, 1)),
        ((1, 7, 9, 7), (7, 1)),
        ((1, 6, 4, 8), (2, 4)),  # neither alone
    ],
)
def test_work_is_cut_by_rows_else_by_channels(sizes, cut):
    assert pieces(*sizes) == cut


def test_threads_are_worth_it_where_they_save_more_than_a_barrier():
    assert FOUR.barrier_cycles == pytest.approx(1.4 * FOUR.costs.barrier_cycles)
    assert replace(FOUR, cores=1).barrier_cycles == 0
    least = FOUR.barrier_cycles * 4 / 3
    assert worth_threads(1.01 * least, FOUR) and not worth_threads(0.99 * least, FOUR)
    one = replace(FOUR, cores=1)  # its code may run on two
    assert worth_threads(2.1 * one.costs.barrier_cycles, one) and not worth_threads(one.costs.barrier_cycles, one)


@pytest.mark.parametrize(("size", "told"), [(2, True), (56, False)])
def test_a_small_kernel_runs_on_one_thread_and_says_so(size, told, tmp_path):
    layer = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()).eval()
    (tmp_path / "best.jsonl").touch()
    artifact = tvm_sched.compile(layer, torch.zeros(1, 16, size, size), target=FOUR, records=tmp_path, check=False)
    (choice,) = artifact.explain()
    (call,) = (each for each in artifact.manifest["calls"] if each[0] == choice.function)
    assert choice.schedule.endswith("on one thread") == told
    assert (not SharedCall.from_json(call).launches) == told


@pytest.mark.parametrize(
    ("lengths", "threads", "in_order", "dealt"),
    [
        ([3, 3, 3, 3], 2, 1, 1),
        ([4, 4, 1, 1], 2, 1.6, 1),
        ([5, 1, 1, 1], 2, 1.5, 1.25),
        ([2, 1, 1], 2, 1.5, 1),
        ([4, 2], 4, 8 / 3, 8 / 3),  # more threads than rows
    ],
)
def test_uneven_rows_keep_a_thread_waiting(lengths, threads, in_order, dealt):
    assert busiest_rows(lengths, threads) == pytest.approx(in_order)
    assert busiest_rows(lengths, threads, dealt=True) == pytest.approx(dealt)
