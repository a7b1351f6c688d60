"""Probes ask for what they say: fed with the cycles that the kernels' estimates give, each finds the figure that these
were made of. `tests/cli/test_calibrate.py` runs them.
"""

from dataclasses import replace
from math import inf, nan, prod
from pathlib import Path

import numpy as np
import pytest
import tvm

from subp_contract.errors import UserError
from tvm_sched import codegen, runtime, targets
from tvm_sched.bench.calibration import measuring, workloads
from tvm_sched.bench.calibration.probes import NOT_MEASURED, PROBES
from tvm_sched.bench.calibration.trials import Trial
from tvm_sched.kernels.register_tile import overflows_a_set
from tvm_sched.targets.costs import CYCLES, FACTOR, FIGURES
from tvm_sched.targets.sizes import FLOAT

PROBE = {probe.figure: probe for probe in PROBES}
COPIES = {"moved_bytes_per_cycle", "copy_cycles", "rearrange_cycles", "gather_cycles", "planes_cycles"}
OF_KERNELS = set(PROBE) - COPIES - {"barrier_cycles", "foreign_bytes_per_cycle"}
UNFIT = [("cortex-a76", figure) for figure in ("scalar_loads_per_cycle", "bank_factor", "spread_cycles")]  # four lanes
UNFIT += [("x86-avx512", figure) for figure in ("vector_loads_per_cycle", "index_loads")]  # a multiply-add a cycle
OVER_OUTPUTS = ("turn_cycles", "tap_cycles")  # of dot products that take vectors of outputs: those of x86
UNFIT += [("cortex-a76", figure) for figure in OVER_OUTPUTS]
UNFIT += [(name, "packed_store_cycles") for name in ("x86-avx2", "cortex-a76")]  # too few registers, or too short
CASES = [
    (name, figure)
    for name in ("x86-avx512", "x86-avx2", "cortex-a76")
    for figure in sorted(OF_KERNELS)
    if (name, figure) not in UNFIT
] + [("x86-avx512-vnni", figure) for figure in OVER_OUTPUTS]
ODD = {  # figures that no target here has
    "l2_bytes_per_cycle": 16,
    "far_bytes_per_cycle": 7,
    "set_overflow_factor": 1.7,
    "store_cycles": 4,
    "tile_cycles": 17,
    "loop_cycles": 31,
    "transform_instructions": 8,
    "transpose_cycles": 7,
    "transposed_store_cycles": 9,
    "spread_cycles": 0.9,
    "lanes_step_cycles": 3,
    "integer_store_cycles": 7,
    "packed_store_cycles": 6,
    "buffered_store_cycles": 11,
    "interleave_cycles": 5,
    "turn_cycles": 12,
    "tap_cycles": 2,
    "pick_cycles": 2.3,
}


def one_core(name: str) -> targets.Target:
    """The target with odd costs."""
    target = targets.get(name)
    return replace(target, cores=1, costs=replace(target.costs, **ODD))


def trial(figure: str, name: str) -> Trial:
    """What a probe asks of a target that has the figure."""
    return PROBE[figure].trial(one_core(name))


def test_every_figure_is_measured_or_said_not_to_be():
    assert sorted([*(probe.figure for probe in PROBES), *NOT_MEASURED]) == sorted(FIGURES)


def test_the_documentation_says_how_each_is_measured():
    text = (Path(__file__).resolve().parents[3] / "docs" / "targets.md").read_text()
    meanings = {figure: each.metadata["meaning"] for figure, each in FIGURES.items()}
    rows = [f"| {meanings[probe.figure]} | {probe.isolates} |" for probe in PROBES]
    rows += [f"| {meanings[figure]} | not: {why} |" for figure, why in NOT_MEASURED.items()]
    assert [row for row in rows if row not in text] == []


@pytest.mark.parametrize(("name", "figure"), CASES)
def test_a_probe_inverts_the_kernels_estimate(name, figure):
    target, asked = one_core(name), trial(figure, name)
    cycles = [work.kernel.cycles(work.problem, work.tile, target) for work in asked.workloads]
    assert asked.solve(*cycles) == pytest.approx(getattr(target.costs, figure), rel=0.02)


@pytest.mark.parametrize(
    ("figure", "cycles", "expected"),
    [
        ("moved_bytes_per_cycle", 2**20, 3),  # three arrays of 1 MiB
        ("copy_cycles", 14 * 14 * 8 * 5, 5),  # 8 vectors of 14x14 pixels
        ("rearrange_cycles", 28 * 28 * 4 * 3, 3),  # four vectors become one pixel of four
        ("gather_cycles", 112 * 112 * 16 * 2, 2),  # 12 channels and 4 of padding
        ("planes_cycles", 28 * 28 * 64 * 3, 3),
    ],
)
def test_copies_are_counted_by_what_they_write(figure, cycles, expected):
    assert trial(figure, "x86-avx512").solve(cycles) == expected


@pytest.mark.parametrize(("name", "figure"), UNFIT)
def test_a_figure_that_a_target_lacks_is_told(name, figure):
    assert isinstance(trial(figure, name), str)


@pytest.mark.parametrize("name", ["x86-avx512", "x86-avx2", "cortex-a76", "cortex-a53"])
def test_pixels_overflow_a_set_in_one_of_two_like_problems(name):
    crowded, spread = trial("set_overflow_factor", name).workloads
    assert overflows_a_set(crowded.problem, crowded.tile, one_core(name))
    assert not overflows_a_set(spread.problem, spread.tile, one_core(name))
    assert crowded.tile == spread.tile
    assert replace(spread.problem, channels=crowded.problem.channels) == crowded.problem


@pytest.mark.parametrize("name", ["x86-avx512", "x86-avx2", "cortex-a76"])
def test_weights_lie_in_the_cache_that_they_are_to_come_from(name):
    target = one_core(name)
    near, far = (
        prod(trial(figure, name).workloads[0].arguments[1].shape) * FLOAT
        for figure in ("l2_bytes_per_cycle", "far_bytes_per_cycle")
    )
    assert target.l1_bytes < near <= target.costs.cache_share * target.l2_bytes
    assert target.costs.cache_share * target.l2_bytes < far < target.costs.cache_share * target.last_cache_bytes / 2


@pytest.mark.parametrize("name", ["x86-avx512", "x86-avx2"])
def test_short_vectors_with_taps_are_held_against_the_same_without(name):
    taps = [work.problem.kernel for work in trial("bank_factor", name).workloads]
    assert taps == [(3, 3), (3, 3), (1, 1), (1, 1)]
    for work in trial("bank_factor", name).workloads:
        assert work.problem.n < targets.get(name).lanes and work.tile.block_rows == 1 and not work.problem.padded


def test_a_winograd_band_of_transforms_multiplies_one_channel_in_the_second_cache():
    (work,) = trial("transform_instructions", "x86-avx512").workloads
    assert work.problem.products.kept == 1
    numbers = work.problem.variant.size**2 * work.tile.cols * 2 * work.problem.products.channels
    assert numbers * FLOAT <= targets.X86_AVX512.l2_bytes


@pytest.mark.parametrize(
    ("measured", "spread", "unit", "words"),
    [
        (5.0, 0.1, CYCLES, ""),
        (0.0, 0.0, CYCLES, ""),
        (-5.0, 0.1, CYCLES, "makes no sense"),
        (0.0, 0.0, FACTOR, "makes no sense"),
        (inf, 0.1, CYCLES, "makes no sense"),
        (nan, 0.1, CYCLES, "makes no sense"),
        (5.0, 0.6, CYCLES, "60% apart"),
    ],
)
def test_figures_that_swing_or_make_no_sense_are_not_believed(measured, spread, unit, words):
    told = measuring.doubts(measured, spread, unit)
    assert words in told and bool(told) == bool(words)


def test_a_barrier_is_what_a_second_thread_adds_to_a_launch(monkeypatch):
    monkeypatch.setattr(runtime, "most_threads", lambda: 2)
    asked = trial("barrier_cycles", "x86-avx512")
    assert [work.threads for work in asked.workloads] == [2, 1]
    assert asked.solve(workloads.LAUNCHES * 2600, workloads.LAUNCHES * 100) == 2500
    monkeypatch.setattr(runtime, "most_threads", lambda: 1)
    assert trial("barrier_cycles", "x86-avx512") == "this process may use one thread"


def test_foreign_lines_are_half_of_what_threads_write_that_cut_an_image_in_two_ways(monkeypatch):
    monkeypatch.setattr(runtime, "most_threads", lambda: 2)
    asked = trial("foreign_bytes_per_cycle", "host")
    assert [work.threads for work in asked.workloads] == [2, 2]
    share = prod(workloads.EXCHANGED) * FLOAT / 2  # of a thread
    alike = workloads.EXCHANGES * 1000
    assert asked.solve(alike + workloads.EXCHANGES * share / 5, alike) == pytest.approx(5)
    for work in asked.workloads:
        tensors = [tvm.runtime.tensor(np.ones_like(each)) for each in work.arguments]
        codegen.build(work.mod, targets.host()).mod["main"](*tensors)
        assert (tensors[1].numpy() == 1 + 2 * workloads.EXCHANGES).all()
    monkeypatch.setattr(runtime, "most_threads", lambda: 1)
    assert trial("foreign_bytes_per_cycle", "host") == "this process may use one thread"


def test_a_target_that_this_machine_cannot_run_is_refused():
    other = "cortex-a76" if targets.host().arch == "x86_64" else "x86-avx2"
    with pytest.raises(UserError, match=f"target '{other}' cannot be measured on this machine"):
        measuring.calibrated(targets.get(other), 0.01)
