"""Winograd's F(2,3) of 8-bit integers against NumPy, bit for bit: images, paddings, groups, block sizes, densities,
roundings, tiles and layouts, every dot product of int16.
"""

from dataclasses import replace

import numpy as np
import pytest
from integer_run import TARGETS, WINOGRAD, Convolution, form_of, function_of, transformed
from te_run import function, replays, run, scheduled, tiles
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched.kernels.generic import rules
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.kernels.integer.planar import planar_winograd
from tvm_sched.kernels.integer.planar.winograd_schedule import row_of, run_of

NAMES = ("x86-avx2", "x86-avx512", "cortex-a72")
ROUNDINGS = ("", "each", "one", "residual")
AROUND = (1, 1, 1, 1)


def random_case(seed: int) -> Convolution:
    """A 3x3 convolution of stride 1 with anything that one may have."""
    rng = np.random.default_rng(seed)
    padding = [int(rng.integers(0, 3)) for _ in range(4)]
    image = [max(int(rng.integers(1, 20)), 3 - padding[axis] - padding[axis + 2]) for axis in (0, 1)]
    groups = int(rng.choice([1, 1, 1, 2]))
    return Convolution(
        channels=groups * int(rng.integers(1, 30)),
        out_channels=groups * int(rng.integers(1, 40)),
        image=(image[0], image[1]),
        padding=(padding[0], padding[1], padding[2], padding[3]),
        groups=groups,
        batch=int(rng.integers(1, 3)),
        n=int(rng.choice([4, 8, 16, 32, 64])),
        density=float(rng.choice([0.1, 0.25, 0.5, 1.0])),
        zero_point=int(rng.integers(0, 128)),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(24))
def test_random_layers(seed):
    target = TARGETS[NAMES[seed % 3]]
    made = function_of(random_case(seed), target, WINOGRAD, rounding=ROUNDINGS[seed // 3 % 4])
    possible = tiles(WINOGRAD, made.mod, target)
    made.check(possible[seed % len(possible)])


@pytest.mark.parametrize(
    ("case", "rounding"),
    [
        (Convolution(10, 16, (8, 8), padding=AROUND, density=0.5), "residual"),  # rows of half a vector
        (Convolution(6, 16, (16, 16), padding=AROUND), "each"),  # rows of a vector
        (Convolution(6, 16, (14, 14), padding=AROUND, density=0.5, batch=2), ""),  # rows with gaps between them
        (Convolution(5, 12, (7, 9), padding=AROUND, n=4), "residual"),  # half a 2x2 tile more than the image
    ],
)
def test_every_layout_gives_the_same_numbers(case, rounding):
    target = TARGETS["x86-avx2"]
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    form, layouts = form_of(WINOGRAD, layer, target, case.n), planar_winograd.layouts(layer, dot)
    for layout in layouts:
        problem = replace(form.problem, layout=layout)
        function_of(case, target, WINOGRAD, rounding, form=replace(form, problem=problem)).check()
    assert len(layouts) > 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", [(1, 1), (2, 1), (5, 2), (9, 1), (1, 3), (3, 4), (16, 1)])
def test_images_of_fewer_pixels_than_a_vector_has(name, image):
    """Rows behind the image fill up a vector: what they read must be there."""
    target, case = TARGETS[name], Convolution(6, 16, image, padding=AROUND, density=0.5)
    made = function_of(case, target, WINOGRAD, "each")
    layout = WINOGRAD.problem(Schedule(made.mod)).layout
    rows = run_of(layout) // row_of(layout)
    last = (rows - 1) * layout.pitch + (run_of(layout) - 1) % row_of(layout) + layout.offset(3, 3)
    assert last < layout.reach
    made.check()


def test_rows_that_fill_vectors_have_no_gaps():
    def layout(size: int):
        case = Convolution(4, 16, (size, size), padding=AROUND)
        return planar_winograd.layouts(case.layer("uint8", case.weight), dot_of(TARGETS["x86-avx2"]))[0]

    assert [row_of(layout(size)) for size in (8, 16, 32)] == [4, 8, 16]
    assert run_of(layout(7)) == 16
    assert row_of(layout(28)) == 15


@pytest.mark.parametrize("weight", [127, -127])
def test_the_largest_sums_are_exact(weight):
    """4 * 9 * 1800 * 255 * 127 is just below 2^31."""
    case, target = Convolution(1800, 4, (4, 4), n=4), TARGETS["x86-avx2"]
    made = function_of(case, target, WINOGRAD, weight=np.full((4, 1800, 3, 3), weight, "int8"))
    made.arrays[0][:] = 255
    made.result[:] = 9 * 1800 * 255 * weight
    made.check()


def test_sums_that_may_not_fit_are_left_to_direct_convolution():
    target = TARGETS["x86-avx2"]
    few, many = (
        Convolution(channels, 4, (4, 4), n=4).layer("uint8", np.full((4, channels, 3, 3), 127, "int8"))
        for channels in (1800, 1900)
    )
    assert list(WINOGRAD.forms(few, target)) and not list(WINOGRAD.forms(many, target))


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "cortex-a76"])
def test_dot_products_of_bytes_do_not_take_it(name):
    target, case = TARGETS[name], Convolution(8, 16, (8, 8), padding=AROUND)
    assert not list(WINOGRAD.forms(case.layer(dot_of(target).activation, case.weight), target))


@pytest.mark.parametrize("changed", [{"kernel": (5, 5)}, {"stride": (2, 2)}, {"dilation": (2, 2)}])
def test_other_convolutions_are_left_to_others(changed):
    case = replace(Convolution(8, 16, (9, 9)), **changed)
    assert not list(WINOGRAD.forms(case.layer("uint8", case.weight), TARGETS["x86-avx2"]))


def test_weights_are_transformed_exactly():
    target, data = TARGETS["host"], np.random.default_rng(0).integers(-127, 128, (2, 3, 3, 3, 4, 2)).astype("int8")
    expected = transformed(data)
    given = te.placeholder(data.shape, "int8")
    sch = Schedule(function([given], planar_winograd.transform_weight(given)))
    rules.schedule(sch, target)
    np.testing.assert_array_equal(run(sch, target, [data], expected.shape, "int16"), expected)


def test_a_schedule_replays():
    target = TARGETS["x86-avx2"]
    made = function_of(Convolution(9, 16, (6, 6), padding=AROUND, density=0.5), target, WINOGRAD, rounding="each")
    assert replays(scheduled(WINOGRAD, made.mod, target), made.mod)
