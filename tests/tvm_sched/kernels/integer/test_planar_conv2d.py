"""The convolution of 8-bit integers against NumPy, bit for bit: shapes, block sizes, densities, roundings, all tiles,
every dot product.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_run import CONV2D, TARGETS, WINOGRAD, Convolution, form_of, function_of
from te_run import replays, scheduled, tiles

from tvm_sched import codegen
from tvm_sched.kernels.integer.dots import OF_SMALL, SMALL, dot_for, dot_of
from tvm_sched.kernels.integer.planar import outputs, planar_conv2d
from tvm_sched.kernels.integer.planar.outputs import OutputsTile
from tvm_sched.kernels.integer.planar.schedule import PlanarTile
from tvm_sched.records.database import Records

KERNELS = ((1, 1), (1, 1), (1, 1), (3, 3), (3, 3), (3, 3), (1, 3), (3, 1), (5, 5), (7, 7), (2, 3))
ROUNDINGS = ("", "each", "one", "residual")

RECORDED = Convolution(9, 16, (6, 6))
REPLAY = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[3])]}
from test_planar_conv2d import RECORDED
from integer_run import TARGETS, function_of
from tvm_sched.records.database import Records

target = TARGETS["host"]
mod = function_of(RECORDED, target, rounding="each").mod
print(Records(sys.argv[1], target).lookup(mod["main"]).schedule.mod["main"].body)
"""


def random_case(seed: int) -> Convolution:
    """A convolution with anything that one may have."""
    rng = np.random.default_rng(seed)
    kernel = KERNELS[rng.integers(len(KERNELS))]
    dilation = tuple(int(each) for each in rng.integers(1, 3, 2)) if rng.random() < 0.3 else (1, 1)
    reach = [(taps - 1) * apart + 1 for taps, apart in zip(kernel, dilation, strict=True)]
    image = tuple(int(rng.integers(0, 12)) + each for each in reach)
    down, across = (int(each) for each in rng.integers(1, 4, 2)) if rng.random() < 0.4 else (1, 1)
    padding = [int(rng.integers(0, each + 1)) for each in (*reach, *reach)] if rng.random() < 0.8 else [0] * 4
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    return Convolution(
        channels=groups * int(rng.integers(1, 24)),
        out_channels=groups * int(rng.integers(1, 40)),
        image=image,
        kernel=kernel,
        stride=(down, across),
        padding=tuple(padding),
        dilation=dilation,
        groups=groups,
        batch=int(rng.integers(1, 3)),
        n=int(rng.choice([4, 8, 16, 32, 64])),
        density=float(rng.choice([0.1, 0.25, 0.5, 1.0])),
        zero_point=int(rng.integers(0, 128)),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(35))
def test_random_layers(seed):
    target = list(TARGETS.values())[seed % len(TARGETS)]
    function_of(random_case(seed), target, rounding=ROUNDINGS[seed // len(TARGETS) % 4]).check()


@pytest.mark.parametrize("seed", (*range(100, 112), 124))
def test_random_layers_with_lanes_over_outputs(seed):
    target = TARGETS[("x86-avx512-vnni", "x86-avx2", "host", "x86-avx512", "avx-vnni")[seed % 5]]
    case = replace(random_case(seed), n=(16, 32)[seed // 2 % 2])
    case = replace(case, out_channels=case.groups * max(case.out_channels // case.groups, case.n))
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    found = planar_conv2d.layouts(layer, target, dot)
    found = planar_conv2d.single_layouts(found, target)
    problem = planar_conv2d.planar_problem(layer, case.n, dot, found[seed % len(found)])
    form = replace(form_of(CONV2D, layer, target, case.n), problem=problem)
    function = function_of(case, target, rounding=ROUNDINGS[seed % 4], form=form)
    possible = tiles(CONV2D, function.mod, target)
    function.check(possible[seed // 3 % len(possible)])


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "avx-vnni", "x86-avx512", "x86-avx2", "cortex-a76"])
@pytest.mark.parametrize("image", [(1, 1), (1, 3), (2, 2)])
def test_images_of_fewer_pixels_than_a_vector_has(name, image):
    """Each step of such a layer is one statement or two, and nothing but their order keeps one behind another."""
    target, case = TARGETS[name], Convolution(16, 32, image, (1, 1), batch=2, n=16)
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    form, layouts = form_of(CONV2D, layer, target, case.n), planar_conv2d.layouts(layer, target, dot)
    if outputs.takes(case.n, case.out_channels, dot):
        layouts = [layouts[0], *planar_conv2d.single_layouts(layouts, target)]
    for layout in layouts:
        problem = planar_conv2d.planar_problem(layer, case.n, dot, layout)
        function = function_of(case, target, rounding="each", form=replace(form, problem=problem))
        for tile in tiles(CONV2D, function.mod, target):
            function.check(tile)


@pytest.mark.parametrize("seed", range(200, 212))
def test_random_layers_of_small_weights(seed):
    """Two of their products are added up in 16 bits."""
    target = TARGETS[("x86-avx2", "x86-avx512")[seed % 2]]
    case = replace(random_case(seed), largest=SMALL, n=(16, 4)[seed // 2 % 2])
    case = replace(case, out_channels=case.groups * max(case.out_channels // case.groups, case.n))
    layer = case.layer("uint8", case.weight)
    dot = dot_for(layer, target)
    assert dot in OF_SMALL.values()
    found = planar_conv2d.layouts(layer, target, dot)
    if outputs.takes(case.n, case.out_channels, dot):
        found = [found[0], *planar_conv2d.single_layouts(found, target)]
    problem = planar_conv2d.planar_problem(layer, case.n, dot, found[seed % len(found)])
    form = replace(form_of(CONV2D, layer, target, case.n), problem=problem)
    function_of(case, target, rounding=ROUNDINGS[seed % 4], form=form).check()


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512"])
@pytest.mark.parametrize(("weight", "group"), [(64, 4), (-64, 4), (65, 2)])
def test_sums_in_16_bits_are_taken_only_where_they_fit(name, weight, group):
    case = Convolution(64, 16, (4, 8), (1, 1))
    target, weights = TARGETS[name], np.full((16, 64, 1, 1), weight, "int8")
    function = function_of(case, target, weight=weights)
    assert function.form.problem.dot.group == group
    function.arrays[0][:] = 255
    function.result[:] = 64 * 255 * weight
    function.check()


@pytest.mark.parametrize("name", ["x86-avx2", "host"])
@pytest.mark.parametrize("weight", [127, -127])
def test_the_largest_sums_do_not_saturate(name, weight):
    """255 x 127 twice is more than 16 bits hold."""
    case = Convolution(64, 16, (4, 8), (1, 1))
    target = TARGETS[name]
    function = function_of(case, target, weight=np.full((16, 64, 1, 1), weight, "int8"))
    function.arrays[0][:] = 255
    function.result[:] = 64 * 255 * weight
    function.check()


@pytest.mark.parametrize(
    ("name", "rounding", "case"),
    [
        ("host", "each", Convolution(12, 32, (8, 8), (1, 1), density=0.5)),
        ("host", "residual", Convolution(12, 32, (7, 7), (1, 1), density=0.5)),
        ("host", "residual", Convolution(12, 20, (14, 14), (3, 3), padding=(1, 1, 1, 1), batch=2, n=4)),
        ("x86-avx512-vnni", "residual", Convolution(12, 64, (14, 14), (3, 3), padding=(1, 1, 1, 1), batch=2, n=32)),
        ("x86-avx2", "", Convolution(10, 32, (6, 7), (3, 3), padding=(1, 1, 1, 1), density=0.5)),
        ("x86-avx2", "each", Convolution(10, 16, (9, 9), (3, 3), (2, 2), (1, 1, 1, 1))),
        ("x86-avx2", "residual", Convolution(10, 48, (7, 7), (1, 1), density=0.5)),
        ("x86-avx512", "residual", Convolution(10, 32, (14, 7), (3, 3), padding=(1, 1, 1, 1), density=0.5)),
        ("cortex-a76", "residual", Convolution(10, 16, (14, 7), (3, 3), padding=(1, 1, 1, 1), density=0.5)),
        ("cortex-a76", "each", Convolution(10, 16, (6, 9), (3, 5), padding=(1, 3, 1, 0), seed=1)),
    ],
)
def test_every_tile_and_layout_gives_the_same_numbers(name, rounding, case):
    target = TARGETS[name]
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    form = form_of(CONV2D, layer, target, case.n)
    seen = 0
    layouts = planar_conv2d.layouts(layer, target, dot)
    if outputs.takes(case.n, case.out_channels, dot):
        layouts = [layouts[0], *planar_conv2d.single_layouts(layouts, target)[:2]]
    for layout in layouts:
        problem = planar_conv2d.planar_problem(layer, case.n, dot, layout)
        function = function_of(case, target, rounding=rounding, form=replace(form, problem=problem))
        for tile in tiles(CONV2D, function.mod, target)[::6][:2]:
            function.check(tile)
            seen += 1
    assert seen > 1


@pytest.mark.parametrize(
    ("name", "instruction", "largest"),
    [
        ("x86-avx2", "vpmaddwd", 127),
        ("x86-avx2", "vpmaddubsw", 63),
        ("avx-vnni", "vpdpbusd", 127),
        ("x86-avx512", "vpmaddwd", 127),
        ("x86-avx512", "vpmaddubsw", 63),
        ("x86-avx512-vnni", "vpdpbusd", 63),
        ("cortex-a76", "sdot", 127),
        ("cortex-a72", "smlal", 127),
    ],
)
def test_dot_products_are_the_cpus_own_instructions(name, instruction, largest):
    target = TARGETS[name]
    function = function_of(Convolution(8, 16, (8, 8), (1, 1), largest=largest), target)
    assembly = codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, target).mod, target))
    lines = [line for line in assembly.splitlines() if f"\t{instruction}" in line]
    assert lines
    if name in ("x86-avx512", "x86-avx512-vnni"):
        assert all("zmm" in line for line in lines)


def test_a_register_tile_widens_its_weights_once():
    target, case = TARGETS["x86-avx2"], Convolution(256, 16, (5, 10), (1, 1))
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    (layout,) = (
        each
        for each in planar_conv2d.single_layouts(planar_conv2d.layouts(layer, target, dot), target)
        if each.single == case.image[0] * case.image[1]
    )
    form = replace(
        form_of(CONV2D, layer, target, case.n), problem=planar_conv2d.planar_problem(layer, case.n, dot, layout)
    )
    function = function_of(case, target, form=form)
    tile = OutputsTile(5, 2, pixels_stay=True)
    assembly = codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, target, tile).mod, target))
    counts = [assembly.count(f"\t{each}\t") for each in ("vpmaddwd", "vpbroadcastd", "vpmovsxbw")]
    assert counts == [10, 5, 2]


def test_a_short_sum_leaves_what_it_reads_in_the_first_cache():
    """LLVM would load it before the loop over outputs, into the stack."""
    target = TARGETS["x86-avx512-vnni"]
    function = function_of(Convolution(32, 16, (8, 8), (1, 1)), target, rounding="one")
    tile = PlanarTile(4, 4, pixels_stay=True)
    assembly = codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, target, tile).mod, target))
    assert not [line for line in assembly.splitlines() if "zmm" in line and "(%rsp)" in line]


def test_vectors_on_the_stack_are_aligned():
    target = TARGETS["x86-avx512-vnni"]
    function = function_of(Convolution(64, 32, (8, 8), (1, 1)), target, rounding="each")
    tile = PlanarTile(16, 1, pixels_stay=True)
    assembly = codegen.assembly(codegen.build(scheduled(CONV2D, function.mod, target, tile).mod, target))
    spilled = [line for line in assembly.splitlines() if "zmm" in line and "(%rsp)" in line]
    assert spilled  # each output's coefficient and bias
    assert "andq\t$-64, %rsp" in assembly


def test_a_recorded_schedule_applies_in_a_fresh_process(tmp_path):
    target = TARGETS["host"]
    function = function_of(RECORDED, target, rounding="each")
    sch = scheduled(CONV2D, function.mod, target)
    assert replays(sch, function.mod)
    Records(tmp_path, target, create=True).add(function.mod["main"], sch, [1e-3])
    command = [sys.executable, "-c", REPLAY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sch.mod["main"].body).strip()


@pytest.mark.parametrize(
    ("name", "kernel"), [("x86-avx512-vnni", CONV2D), ("x86-avx2", CONV2D), ("x86-avx2", WINOGRAD)]
)
def test_threads_share_the_block_rows_of_an_image_that_is_one_tile(name, kernel):
    target = replace(TARGETS[name], cores=2)
    few = function_of(Convolution(16, 64, (7, 7), padding=(1, 1, 1, 1)), target, kernel, rounding="residual")
    many = function_of(Convolution(16, 16, (28, 28), padding=(1, 1, 1, 1)), target, kernel)
    assert [each.form.problem.shares_block_rows(target) for each in (few, many)] == [True, False]
    few.check()
    loops = [
        loop for loop in scheduled(kernel, few.mod, target).mod["main"].script().splitlines() if "T.parallel" in loop
    ]
    assert [int(loop.split("parallel(")[1].split(")")[0]) for loop in loops][1:] == [few.form.problem.groups, 4]
