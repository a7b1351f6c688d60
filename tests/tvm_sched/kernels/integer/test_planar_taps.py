"""Depthwise and first layers of 8-bit integers, whose dot products take taps side by side, against NumPy."""

from dataclasses import replace

import pytest
from integer_run import DEPTHWISE, STEM, TARGETS, Convolution, form_of, function_of
from te_run import tiles

from tvm_sched.kernels.integer.dots import dot_of


def depthwise(channels, image, kernel, stride=(1, 1), dilation=(1, 1), **more):
    """A depthwise layer that is padded as usual."""
    down, across = (each // 2 * apart for each, apart in zip(kernel, dilation, strict=True))
    options = {"padding": (down, across, down, across), "dilation": dilation, "groups": channels, "n": 4} | more
    return Convolution(channels, channels, image, kernel, stride, **options)


@pytest.mark.parametrize(
    ("name", "rounding", "case"),
    [
        ("host", "each", depthwise(8, (14, 14), (3, 3))),
        ("host", "", depthwise(5, (9, 11), (3, 3), (2, 2), batch=2, seed=1)),
        ("host", "one", depthwise(4, (8, 9), (5, 5), (1, 1), seed=2)),
        ("x86-avx512-vnni", "each", depthwise(3, (12, 7), (7, 7), (2, 2), seed=3)),
        ("x86-avx2", "each", depthwise(8, (14, 14), (3, 3), seed=4)),
        ("x86-avx2", "one", depthwise(6, (11, 10), (5, 5), (2, 2), seed=5)),
        ("x86-avx2", "", depthwise(3, (9, 8), (7, 7), dilation=(2, 1), batch=2, seed=6)),
        ("x86-avx2", "each", replace(depthwise(8, (14, 13), (3, 3), seed=14), largest=64)),
        ("x86-avx2", "", replace(depthwise(3, (9, 8), (5, 5), (2, 2), seed=15), largest=63)),
        ("x86-avx512", "one", replace(depthwise(4, (9, 9), (7, 7), seed=16), largest=63)),
        ("x86-avx512", "each", depthwise(4, (7, 7), (3, 3), (2, 2), seed=7)),
        ("x86-avx512", "", depthwise(4, (10, 13), (5, 5), dilation=(3, 1), seed=8)),
        ("cortex-a76", "each", depthwise(4, (10, 10), (3, 3), (2, 2), seed=9)),
        ("cortex-a76", "", depthwise(3, (8, 6), (5, 5), seed=10)),
        ("cortex-a72", "each", depthwise(4, (9, 9), (3, 3), seed=11)),
        ("host", "each", depthwise(3, (10, 9), (3, 3), padding=(0, 2, 1, 0), seed=12)),
        ("x86-avx2", "each", depthwise(3, (6, 17), (1, 3), (1, 2), padding=(0, 1, 0, 0), seed=13)),
    ],
)
def test_depthwise_layers(name, rounding, case):
    function_of(case, TARGETS[name], DEPTHWISE, rounding).check()


@pytest.mark.parametrize(
    ("name", "rounding", "case"),
    [
        ("host", "each", Convolution(3, 16, (17, 17), (7, 7), (2, 2), (3, 3, 3, 3))),
        ("x86-avx2", "each", Convolution(3, 24, (16, 16), (3, 3), (2, 2), (1, 1, 1, 1), seed=1)),
        ("x86-avx2", "each", Convolution(3, 24, (16, 15), (7, 7), (2, 2), (3, 3, 3, 3), seed=5, largest=64)),
        ("x86-avx512", "", Convolution(1, 10, (9, 12), (3, 3), padding=(1, 1, 1, 1), batch=2, seed=2)),
        ("cortex-a76", "one", Convolution(4, 8, (12, 12), (5, 5), (4, 4), (2, 2, 1, 1), seed=3)),
        ("cortex-a72", "each", Convolution(2, 8, (7, 8), (3, 3), padding=(0, 1, 2, 0), seed=4)),
    ],
)
def test_first_layers(name, rounding, case):
    function_of(case, TARGETS[name], STEM, rounding).check()


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        (DEPTHWISE, depthwise(2, (12, 12), (3, 3))),
        (STEM, Convolution(3, 16, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1))),
    ],
)
def test_every_tile_gives_the_same_numbers(kernel, case):
    function = function_of(case, TARGETS["host"], kernel, "each")
    for tile in tiles(kernel, function.mod, function.target)[::3]:
        function.check(tile)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("host", depthwise(4, (9, 9), (3, 3), (3, 3))),  # 3 does not divide a group of 4
        ("host", depthwise(4, (9, 9), (3, 3), dilation=(1, 2))),  # nor do such taps lie side by side
        ("cortex-a72", depthwise(4, (9, 9), (3, 3), (2, 2))),
    ],
)
def test_layers_of_other_strides_and_dilations_are_left_to_the_other_kernel(name, case):
    target = TARGETS[name]
    dtype = dot_of(target).activation
    assert not list(DEPTHWISE.forms(case.layer(dtype, case.weight), target))
    function_of(case, target, rounding="each").check()


def test_the_stem_takes_no_layer_of_many_channels():
    case = Convolution(16, 16, (8, 8))
    layer = case.layer("uint8", case.weight)
    assert not list(STEM.forms(layer, TARGETS["host"]))
    assert form_of(STEM, Convolution(8, 16, (8, 8)).layer("uint8", case.weight[:, :8]), TARGETS["host"], None)
