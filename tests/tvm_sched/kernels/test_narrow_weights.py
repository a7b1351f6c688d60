"""Weights of 16 bits: kernels give what float32 ones of the same numbers give, and read half the bytes."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
import tvm
from te_run import function, run, scheduled
from tvm import te
from tvm.s_tir import Schedule

from tvm_sched import codegen, targets
from tvm_sched.kernels import columns_conv2d, direct_conv2d, register_tile, winograd_conv2d
from tvm_sched.kernels.base import STORED_ROUNDING, dtype_named
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.register_tile import Tile
from tvm_sched.kernels.winograd_variants import VARIANTS, Variant
from tvm_sched.passes.tir.insert_prefetches import AHEAD, insert_prefetches
from tvm_sched.planning.narrow_weights import stored_types
from tvm_sched.records.wide_twin import wide_twin

HERE = replace(targets.host(), cores=1)
NARROW = ("float16", "bfloat16")
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
WIDENS = {
    ("x86-avx512", "float16"): r"vcvtph2ps\s+\S*\(.*%zmm",
    ("x86-avx512", "bfloat16"): r"vpmovzxwd\s+\S*\(.*%zmm",
    ("x86-avx2", "float16"): r"vcvtph2ps\s+\S*\(.*%ymm",
    ("x86-avx2", "bfloat16"): r"vpmovzxwd\s+\S*\(.*%ymm",
    ("cortex-a72", "float16"): r"fcvtl\s+v\d+\.4s, v\d+\.4h",
    ("cortex-a72", "bfloat16"): r"shll\s+v\d+\.4s, v\d+\.4h, #16",
}


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """In float32, the numbers of that dtype nearest to the array's."""
    return array.astype(DTYPES[dtype]).astype("float32")


def blocks(rng, groups, channels, kept, taps, n):
    """Packed weights of unit-scale outputs `[G, K, r, r, N]`, the channels that they stand at, and the dense weight."""
    indices = np.stack([np.sort(rng.permutation(channels)[:kept]) for _ in range(groups)]).astype("int32")
    data = rng.standard_normal((groups, kept, taps, taps, n), "float32") / np.sqrt(taps**2 * kept, dtype="float32")
    return data, indices


def dense(data: np.ndarray, indices: np.ndarray, channels: int) -> torch.Tensor:
    """`[O, C, r, r]` of packed blocks."""
    groups, _, taps, _, n = data.shape
    weight = np.zeros((groups, n, channels, taps, taps), "float64")
    for group in range(groups):
        weight[group][:, indices[group]] = data[group].transpose(3, 0, 1, 2)
    return torch.from_numpy(weight.reshape(groups * n, channels, taps, taps))


def placeholders(arrays):
    return [te.placeholder(array.shape, array.dtype.name) for array in arrays]


def winograd(inputs, variant: Variant):
    return function(inputs, winograd_conv2d.compute(*inputs, variant=variant))


def convolved(x: np.ndarray, weight: torch.Tensor, padding: int, stride: int = 1) -> np.ndarray:
    image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(image, weight, padding=padding, stride=stride).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("n", "taps", "stride"), [(16, 1, 1), (8, 3, 1), (32, 3, 2)])
def test_a_direct_convolution_is_that_of_the_rounded_weights(dtype, n, taps, stride):
    rng = np.random.default_rng(0)
    data, indices = blocks(rng, 2, 24, 7, taps, n)
    x = rng.standard_normal((1, 9, 7, 24), "float32")
    arrays = [x, data.astype(DTYPES[dtype]), indices]
    padding = taps // 2
    inputs = placeholders(arrays)
    around = (padding,) * 4
    y = direct_conv2d.conv2d(*inputs, out_channels=2 * n, stride=(stride, stride), padding=around)
    expected = convolved(x, dense(rounded(data, dtype), indices, 24), padding, stride)
    sch = scheduled(direct_conv2d.KERNEL, function(inputs, y), HERE)
    np.testing.assert_allclose(run(sch, HERE, arrays, expected.shape), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", NARROW)
def test_columns_and_linear_layers_too(dtype):
    rng = np.random.default_rng(1)
    data, _ = blocks(rng, 2, 30, 30, 1, 16)
    x = rng.standard_normal((5, 30), "float32")
    arrays = [x, data.astype(DTYPES[dtype])]
    inputs = placeholders(arrays)
    sch = scheduled(direct_conv2d.KERNEL, function(inputs, direct_conv2d.linear(*inputs, out_channels=32)), HERE)
    matrix = rounded(data, dtype)[:, :, 0, 0].transpose(0, 2, 1).reshape(32, 30)
    np.testing.assert_allclose(run(sch, HERE, arrays, (5, 32)), x.astype("float64") @ matrix.T, rtol=0, atol=2e-6)

    picked = np.stack([rng.permutation(9 * 12)[:20] for _ in range(2)])
    places = columns_conv2d.places(np.sort(picked, axis=1), 12, (3, 3))
    data = data[:, :20]
    image = rng.standard_normal((1, 6, 6, 12), "float32")
    arrays = [image, np.ascontiguousarray(data).astype(DTYPES[dtype]), places]
    inputs = placeholders(arrays)
    y = columns_conv2d.compute(*inputs, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1))
    weight = np.zeros((2, 16, 12, 3, 3))
    for group in range(2):
        row, col, channel = places[group].T
        weight[group][:, channel, row, col] = rounded(data, dtype)[group, :, 0, 0].T
    expected = convolved(image, torch.from_numpy(weight.reshape(32, 12, 3, 3)), 1)
    sch = scheduled(columns_conv2d.KERNEL, function(inputs, y), HERE)
    np.testing.assert_allclose(run(sch, HERE, arrays, expected.shape), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dtype", "variant"), [("float16", Variant(4, 3)), ("bfloat16", Variant(2, 3))])
def test_winograd_reads_transformed_weights_that_were_rounded_once_more(dtype, variant):
    rng, lanes = np.random.default_rng(2), HERE.lanes
    data, indices = blocks(rng, 2, 2 * lanes, 9, 3, lanes)
    g = np.array(variant.weight, "float32")
    given = [data.astype(DTYPES[dtype]), g]
    made = te.create_prim_func(
        [*(inputs := placeholders(given)), winograd_conv2d.transform_weight(*inputs)]
    )  # as the network does when it is loaded
    transformed = tvm.runtime.tensor(np.zeros((variant.size, variant.size, 2, 9, lanes), DTYPES[dtype]))
    codegen.build(tvm.IRModule({"main": made}), HERE)["main"](*map(tvm.runtime.tensor, given), transformed)
    exact = np.einsum("ir,bkrsn,js->ijbkn", *(each.astype("float64") for each in (g, rounded(data, dtype), g)))
    step = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    np.testing.assert_allclose(transformed.numpy().astype("float64"), exact, rtol=0.51 * step, atol=1e-7)

    x = rng.standard_normal((1, 10, 10, 2 * lanes), "float32")
    arrays = [x, transformed.numpy(), indices]
    inputs = placeholders(arrays)
    sch = scheduled(winograd_conv2d.KERNEL, winograd(inputs, variant), HERE)
    wide = [x, transformed.numpy().astype("float32"), indices]
    same = scheduled(winograd_conv2d.KERNEL, winograd(placeholders(wide), variant), HERE)
    shape = (1, 10, 10, 2 * lanes)
    output = run(sch, HERE, arrays, shape)
    np.testing.assert_allclose(output, run(same, HERE, wide, shape), rtol=0, atol=3e-5)
    expected = convolved(x, dense(data, indices, 2 * lanes), 1)
    error = np.sqrt(((output - expected) ** 2).mean() / (expected**2).mean())
    told = 1e-6 * variant.rounding_of(dtype)
    assert told / 2 < error < 2 * told


def test_the_errors_that_plans_count_with_are_those_of_the_formats():
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((64, 2304)), rng.standard_normal((2304, 64))
    for dtype in NARROW:
        error = (weight.astype(DTYPES[dtype]).astype("float64") - weight) @ x
        assert 1e-6 * STORED_ROUNDING[dtype] == pytest.approx(np.std(error) / np.std(weight @ x), rel=0.1)
    assert all(each.rounding_of(None) == each.rounding for each in VARIANTS)


@pytest.mark.parametrize(("name", "dtype"), WIDENS)
def test_vectors_of_weights_are_widened_as_they_are_loaded(name, dtype):
    target = replace(targets.get(name), cores=1)
    inputs = [te.placeholder((64, 32)), te.placeholder((2, 32, 1, 1, 16), dtype)]
    mod = function(inputs, direct_conv2d.linear(*inputs, out_channels=32))
    assembly = codegen.assembly(codegen.build(scheduled(direct_conv2d.KERNEL, mod, target).mod, target))
    assert re.search(WIDENS[name, dtype], assembly)


@pytest.mark.parametrize(("dtype", "lines"), [("float32", 2), ("float16", 1)])
def test_a_line_of_weights_is_asked_for_once_and_as_far_ahead(dtype, lines):
    inputs = [te.placeholder((1, 256)), te.placeholder((2, 256, 1, 1, 32), dtype)]
    target = replace(targets.X86_AVX512, cores=1)
    mod = function(inputs, direct_conv2d.linear(*inputs, out_channels=64))
    tile = Tile(1, 1, 1, 1)
    asked = insert_prefetches(scheduled(direct_conv2d.KERNEL, mod, target, tile).mod["main"]).script()
    assert asked.count("T.prefetch(") == lines
    assert f"+ {AHEAD // np.dtype(dtype).itemsize}" in asked or f"{AHEAD // np.dtype(dtype).itemsize}]" in asked


@pytest.mark.parametrize("dtype", NARROW)
def test_its_twin_is_the_function_of_float32_weights(dtype):
    def of(weights):
        inputs = [
            te.placeholder((1, 6, 6, 32)),
            te.placeholder((2, 8, 3, 3, 16), weights),
            te.placeholder((2, 8), "int32"),
        ]
        return function(inputs, direct_conv2d.conv2d(*inputs, out_channels=32, padding=(1, 1, 1, 1)))["main"]

    tvm.ir.assert_structural_equal(wide_twin(of(dtype)), of("float32"))
    assert wide_twin(of("float32")) is None


def test_a_problem_tells_its_weights_and_their_bytes():
    inputs = [te.placeholder((64, 32)), te.placeholder((2, 32, 1, 1, 16), "bfloat16")]
    problem = direct_conv2d.problem_of(Schedule(function(inputs, direct_conv2d.linear(*inputs, out_channels=32))))
    assert (problem.weights, problem.row_bytes(4)) == ("bfloat16", 2 * problem.row_weights)
    assert "work.weights" not in replace(problem, weights=None).attributes()  # records know float32 without it
    tile = Tile(1, 4, 1, 1)
    cold = replace(targets.X86_AVX512, cores=1, network_bytes=1 << 30)
    for target, widening in ((cold, 0.1), (replace(targets.CORTEX_A76, cores=1), 0.6)):
        wide = replace(problem, weights=None)
        step = [register_tile.step_cycles(each, tile, target) for each in (problem, wide)]
        assert step[0] - step[1] == pytest.approx(widening * 16 / target.lanes)
    big = replace(problem, width=1, kept=4096, channels=4096)
    slow = replace(cold, costs=replace(cold.costs, memory_bytes_per_cycle=4))
    narrow, wide = (direct_conv2d.register_tile.cycles(each, tile, slow) for each in (big, replace(big, weights=None)))
    assert narrow < 0.6 * wide


def layer(weight: np.ndarray, dtype: str) -> Layer:
    """3x3, 64 to 64 channels."""
    types = stored_types(weight, dtype)
    return Layer("conv2d 3x3", weight, (1, 14, 14, 64), 64, padding=(1,) * 4, weight_types=types)


def test_forms_hold_weights_in_their_dtype_and_bfloat16_is_too_coarse_for_large_tiles():
    weight = np.random.default_rng(4).standard_normal((64, 64, 3, 3), "float32")
    for dtype in NARROW:
        forms = [*winograd_conv2d.KERNEL.forms(layer(weight, dtype), HERE)]
        narrow = {str(form.details) for form in forms if form.weights == dtype}
        assert narrow == ({"F(2,3)"} if dtype == "bfloat16" else {"F(2,3)", "F(4,3)"})
        form = next(form for form in forms if form.weights == dtype)
        (data,) = form.kernel.pack(form)
        assert data.dtype == dtype_named(dtype)
        assert form.name == f"{form.wide_name}, {dtype} weights"
