"""Pools of 8-bit integers against NumPy, bit for bit, and with what is fused behind them."""

import numpy as np
import pytest
from integer_run import TARGETS, multiply_add, rounded
from te_run import function, run
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched import targets
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.kernels.integer.planar import planar_pool
from tvm_sched.kernels.integer.planar.planar_pool import Pool
from tvm_sched.passes.integer.linear_form import requantize

POOLS = [
    ("host", (2, 3), Pool((3, 3), (2, 2), (1, 1), (9, 9), (5, 5))),
    ("host", (1, 2), Pool((3, 3), (2, 2), (1, 1), (34, 70), (17, 35))),  # a row has more than one vector
    ("x86-avx2", (1, 4), Pool((2, 2), (2, 2), (0, 0), (8, 6), (4, 3))),
    ("x86-avx2", (1, 3), Pool((5, 3), (1, 1), (2, 1), (7, 7), (7, 7))),
    ("cortex-a72", (1, 3), Pool((3, 2), (3, 2), (0, 1), (10, 12), (4, 7))),  # the last windows reach beyond the image
    ("cortex-a76", (1, 1), Pool((1, 3), (1, 3), (0, 0), (4, 11), (4, 3))),
]
ZERO_POINT, COEFFICIENT, BIAS = 7, np.float32(0.31), np.float32(12.5)


def windows(x: np.ndarray, pool: Pool, beyond: int) -> np.ndarray:
    """`[B, C, H', W', kh, kw]` int32 of what each window holds; `beyond`: what it holds outside the image."""
    reach = [(out - 1) * step + taps for out, step, taps in zip(pool.output, pool.stride, pool.window, strict=True)]
    margins = [
        (before, max(0, far - size - before)) for before, far, size in zip(pool.padding, reach, pool.image, strict=True)
    ]
    filled = np.pad(x.astype("int32"), [(0, 0), (0, 0), *margins], constant_values=beyond)
    seen = np.lib.stride_tricks.sliding_window_view(filled, pool.window, (2, 3))
    return seen[:, :, :: pool.stride[0], :: pool.stride[1]][:, :, : pool.output[0], : pool.output[1]]


def found(inputs, result, arrays, target, dtype) -> np.ndarray:
    """What the scheduled function computes, in this machine's instructions."""
    sch = Schedule(function(inputs, result))
    planar_pool.schedule(sch, target)
    here = target if targets.runs_here(target) else targets.on_this_machine(target)
    return run(sch, here, arrays, tuple(int(extent) for extent in result.shape), dtype)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("name", "planes", "pool"), POOLS)
def test_pools(name, planes, pool, fused):
    target = TARGETS[name]
    dtype = dot_of(target).activation
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max, (*planes, *pool.image), dtype, endpoint=True)
    image, arrays = te.placeholder(x.shape, dtype), [x]
    largest = windows(x, pool, -1000).max((4, 5))
    total = windows(x, pool, ZERO_POINT).sum((4, 5))
    made = planar_pool.greatest(image, pool=pool), planar_pool.sums(image, pool=pool, zero_point=ZERO_POINT)
    kind = "int32"
    if fused:
        options = {"limits": (3, 120), "dtype": dtype, "fits": True}
        made = (requantize(each, numbers=[float(COEFFICIENT), float(BIAS)], **options) for each in made)
        largest, total = (rounded(multiply_add(each, COEFFICIENT, BIAS), (3, 120), dtype) for each in (largest, total))
        kind = dtype
    greatest, sums = made
    np.testing.assert_array_equal(found([image], greatest, arrays, target, dtype), largest)
    np.testing.assert_array_equal(found([image], sums, arrays, target, kind), total)


def test_the_largest_sums_fit_16_bits():
    pool = Pool((16, 8), (16, 8), (0, 0), (16, 16), (1, 2))
    x = np.full((1, 2, 16, 16), 255, "uint8")
    image = te.placeholder(x.shape, "uint8")
    sums = planar_pool.sums(image, pool=pool, zero_point=0)
    np.testing.assert_array_equal(found([image], sums, [x], TARGETS["host"], "int32"), np.full((1, 2, 1, 2), 32640))
