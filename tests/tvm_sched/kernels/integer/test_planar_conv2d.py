"""The convolution of 8-bit integers against NumPy, bit for bit: shapes, block sizes, densities, roundings, all tiles,
every dot product.
"""

from dataclasses import replace

import numpy as np
import pytest
from integer_run import CONV2D, TARGETS, Convolution, form_of, function_of
from te_run import tiles

from tvm_sched.kernels.integer import planar_conv2d
from tvm_sched.kernels.integer.dots import dot_of

KERNELS = ((1, 1), (1, 1), (1, 1), (3, 3), (3, 3), (3, 3), (1, 3), (3, 1), (5, 5), (7, 7), (2, 3))


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


@pytest.mark.parametrize("seed", range(36))
def test_random_layers(seed):
    target = list(TARGETS.values())[seed % len(TARGETS)]
    function_of(random_case(seed), target, rounding=["", "each", "one"][seed // len(TARGETS) % 3]).check()


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
        ("x86-avx2", "", Convolution(10, 32, (6, 7), (3, 3), padding=(1, 1, 1, 1), density=0.5)),
        ("x86-avx2", "each", Convolution(10, 16, (9, 9), (3, 3), (2, 2), (1, 1, 1, 1))),
    ],
)
def test_every_tile_and_layout_gives_the_same_numbers(name, rounding, case):
    target = TARGETS[name]
    dot = dot_of(target)
    layer = case.layer(dot.activation, case.weight)
    form = form_of(CONV2D, layer, target, case.n)
    seen = 0
    for layout in planar_conv2d.layouts(layer, target, dot.lanes):
        problem = planar_conv2d.planar_problem(layer, case.n, dot, layout)
        function = function_of(case, target, rounding=rounding, form=replace(form, problem=problem))
        for tile in tiles(CONV2D, function.mod, target)[::6][:2]:
            function.check(tile)
            seen += 1
    assert seen > 1
