"""The linear layer of 8-bit integers against NumPy, bit for bit: block sizes, densities, roundings, rows, tiles, every
dot product.
"""

from dataclasses import replace

import numpy as np
import pytest
from integer_run import TARGETS, Function, expected_rounding, form_of, some_rounding
from te_run import function, replays, scheduled, tiles
from tvm import te
from zeros import keep_blocks

from tvm_sched import codegen
from tvm_sched.kernels.integer import integer_linear
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.kernels.layer import Layer

LINEAR = integer_linear.KERNEL


def linear(target, rows, channels, outputs, n=16, density=1.0, rounding="", seed=0, extreme=False, largest=127):
    """A layer's Function, with its result; `rows` are the extents before the channels."""
    rng, dtype = np.random.default_rng(seed), dot_of(target).activation
    limits = np.iinfo(dtype)
    weight = rng.integers(-largest, largest, (outputs, channels, 1, 1), "int8", endpoint=True)
    weight = keep_blocks(weight, n, max(1, round(density * channels)), seed)
    x = rng.integers(limits.min, limits.max, (*rows, channels), dtype, endpoint=True)
    if extreme:
        weight[:], x[:] = -largest, limits.max
    layer = Layer("linear", weight, (*rows, outputs), channels, linear=True, dtype=dtype)
    form = form_of(LINEAR, layer, target, n)
    total = (x.astype("int64") @ weight[:, :, 0, 0].T.astype("int64")).astype("int32")
    arrays, rounds = [x, *LINEAR.pack(form)], None
    if rounding:
        rounds, tensors = some_rounding(layer, seed, rounding == "each", fits=seed % 2 == 0)
        arrays += tensors
        total = expected_rounding(total, rounds, tensors, axes=0)
    image, *weights = inputs = [te.placeholder(array.shape, str(array.dtype)) for array in arrays]
    made = integer_linear.linear(image, *weights, problem=form.problem, out_channels=outputs, rounding=rounds)
    return Function(form, function(inputs, made), arrays, total, target)


@pytest.mark.parametrize(
    ("name", "rounding", "sizes"),
    [
        ("x86-avx512-vnni", "each", {"rows": (1,), "channels": 64, "outputs": 40}),  # half of the last block row is cut
        ("x86-avx512-vnni", "", {"rows": (2, 7), "channels": 48, "outputs": 64, "n": 64}),
        ("host", "one", {"rows": (5,), "channels": 30, "outputs": 32, "density": 0.4}),
        ("host", "each", {"rows": (1, 9), "channels": 37, "outputs": 100, "n": 32}),
        ("x86-avx512", "each", {"rows": (3,), "channels": 20, "outputs": 48}),
        ("x86-avx2", "one", {"rows": (2, 2, 3), "channels": 24, "outputs": 24, "n": 8, "density": 0.5}),
        ("x86-avx2", "each", {"rows": (4,), "channels": 9, "outputs": 20, "n": 8}),
        ("x86-avx2", "each", {"rows": (2, 3), "channels": 41, "outputs": 32, "density": 0.5, "largest": 64}),
        ("x86-avx512", "one", {"rows": (1,), "channels": 24, "outputs": 48, "largest": 63}),
        ("avx-vnni", "", {"rows": (1,), "channels": 40, "outputs": 48, "n": 16, "density": 0.25}),
        ("cortex-a76", "each", {"rows": (2,), "channels": 36, "outputs": 24, "n": 4, "density": 0.5}),
        ("cortex-a72", "one", {"rows": (3,), "channels": 21, "outputs": 16, "n": 8, "density": 0.5}),
    ],
)
def test_linear_layers(name, rounding, sizes):
    linear(TARGETS[name], rounding=rounding, seed=len(name), **sizes).check()


@pytest.mark.parametrize(("name", "largest"), [("x86-avx2", 127), ("x86-avx2", 64), ("host", 127)])
def test_the_largest_sums_do_not_saturate(name, largest):
    linear(TARGETS[name], (1,), 64, 16, extreme=True, largest=largest).check()


def test_every_tile_gives_the_same_numbers():
    made = linear(TARGETS["host"], (6,), 32, 80, density=0.5, rounding="each")
    found = tiles(LINEAR, made.mod, made.target)
    assert len({tile.rows for tile in found}) > 1 and len({tile.block_rows for tile in found}) > 1
    for tile in found[::4]:
        made.check(tile)


def test_threads_share_block_rows():
    linear(replace(TARGETS["host"], cores=2), (3,), 32, 96, rounding="each").check()


def test_a_schedule_replays():
    made = linear(TARGETS["host"], (1,), 32, 32)
    assert replays(scheduled(LINEAR, made.mod, made.target), made.mod)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("x86-avx2", "vpmaddwd"), ("x86-avx512-vnni", "vpdpbusd"), ("cortex-a76", "sdot"), ("cortex-a72", "smlal")],
)
def test_dot_products_are_the_cpus_own_instructions(name, instruction):
    target = TARGETS[name]
    made = linear(target, (1,), 64, 32)
    assembly = codegen.assembly(codegen.build(scheduled(LINEAR, made.mod, target).mod, target))
    assert f"\t{instruction}" in assembly
