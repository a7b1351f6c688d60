"""The generic schedules against NumPy and PyTorch: what Relax makes of ordinary operators, at shapes that divide
nothing evenly.
"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm_ffi
from te_run import function, replays, run
from torch.nn import functional
from tvm import te, topi
from tvm.s_tir import SBlock, Schedule

from tvm_sched import targets
from tvm_sched.kernels.generic import rules
from tvm_sched.kernels.rewrites.tir_blocks import blocks_of

ONE_CORE = replace(targets.host(), cores=1)
WIDE = replace(ONE_CORE, lanes=16)


def check(output, inputs, expected, target=ONE_CORE, tolerance=1e-5, arrays=None):
    """Schedules the TE function, runs it on random numbers, compares; `expected` is a function of torch tensors."""
    generator = np.random.default_rng(2)
    if arrays is None:
        arrays = [generator.standard_normal([int(n) for n in x.shape], "float32") for x in inputs]
    mod = function(inputs, output)
    sch = Schedule(mod)
    rules.schedule(sch, target)
    assert replays(sch, mod)
    y = run(sch, target, arrays, [int(n) for n in output.shape], str(output.dtype))
    reference = expected(*map(torch.from_numpy, arrays)).numpy()
    np.testing.assert_allclose(y, reference, rtol=tolerance, atol=tolerance)
    return sch


def tensors(*shapes):
    return [te.placeholder(shape, "float32", f"x{i}") for i, shape in enumerate(shapes)]


def blocks_below(sch: Schedule) -> list:
    """All computing blocks, the zeroing ones too."""
    names = []
    tvm_ffi.structural_walk(sch.mod["main"].body, (SBlock, lambda block: names.append(block.name_hint)))
    return [sch.get_sblock(name) for name in names if name != "root"]


def nhwc(function_of_nchw):
    """A PyTorch function of an NCHW image, for NHWC."""
    return lambda x: function_of_nchw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("shape", [(7,), (5, 16), (3, 7, 7, 58), (2, 1, 1, 100), (1, 9, 3), (1,)])
def test_elementwise_chains_become_one_loop(shape):
    x, y = tensors(shape, shape)
    output = topi.nn.relu(topi.add(topi.multiply(x, y), topi.subtract(x, y)))
    sch = check(output, [x, y], lambda x, y: torch.relu(x * y + (x - y)))
    assert len(blocks_of(sch)) == 1


@pytest.mark.parametrize("shape, joined", [((1, 8, 28, 28), 784), ((2, 3, 9, 7), 63), ((1, 6, 4, 32), 32)])
def test_rows_that_fill_no_vectors_become_one_long_row(shape, joined):
    """What does not run along with them, a number a channel, stops them."""
    x, y, scale = tensors(shape, shape, (1, shape[1], 1, 1))
    output = topi.nn.relu(topi.add(topi.multiply(x, y), scale))
    sch = check(output, [x, y, scale], lambda x, y, scale: torch.relu(x * y + scale), WIDE)
    (block,) = blocks_of(sch)
    *_, vectors, lane = (int(sch.get(loop).extent) for loop in sch.get_loops(block))
    assert vectors * lane == -(-joined // 16) * 16
    (x,) = tensors(shape)
    check(topi.add(x, topi.flip(x, 3)), [x], lambda x: x + x.flip(3), WIDE)
    check(topi.add(x, topi.max(x, 2, keepdims=True)), [x], lambda x: x + x.amax(2, keepdim=True), WIDE)


@pytest.mark.parametrize("channels", [3, 16, 40, 58])
def test_scale_and_shift_along_channels(channels):
    x, scale, shift = tensors((2, 5, 7, channels), (channels,), (channels,))
    output = topi.add(topi.multiply(x, scale), shift)
    check(output, [x, scale, shift], lambda x, scale, shift: x * scale + shift)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("shape", [(1, 3, 20, 20), (2, 17, 9, 33), (1, 32, 7, 7), (2, 197, 3, 16)])
def test_permuted_axes(shape, order):
    (x,) = tensors(shape)
    check(topi.transpose(x, order), [x], lambda x: x.permute(order))


@pytest.mark.parametrize("sizes", [(16, 16), (58, 58), (64, 128, 32), (3, 5, 7), (1, 100)])
@pytest.mark.parametrize("axis", [1, 3])
def test_concatenation(sizes, axis):
    shapes = [(2, size, 5, 6) if axis == 1 else (2, 5, 6, size) for size in sizes]
    inputs = tensors(*shapes)
    check(topi.concatenate(inputs, axis), inputs, lambda *parts: torch.cat(parts, axis))


@pytest.mark.parametrize("channels", [8, 58, 116])
def test_channel_shuffle(channels):
    (x,) = tensors((1, 7, 7, channels))
    parts = topi.transpose(topi.reshape(x, (1, 7, 7, 2, channels // 2)), (0, 1, 2, 4, 3))
    expected = lambda x: x.reshape(1, 7, 7, 2, channels // 2).transpose(3, 4).reshape(1, 7, 7, channels)  # noqa: E731
    check(topi.reshape(parts, (1, 7, 7, channels)), [x], expected)


def test_strided_slice():
    (x,) = tensors((1, 9, 10, 20))
    check(topi.strided_slice(x, [0, 1, 0, 3], [1, 9, 10, 20], [1, 2, 3, 1]), [x], lambda x: x[:, 1::2, ::3, 3:])


POOLS = {
    "3x3 stride 2": ((3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3 stride 1": ((3, 3), (1, 1), (1, 1, 1, 1)),
    "2x2 stride 2": ((2, 2), (2, 2), (0, 0, 0, 0)),
    "4x4 stride 3": ((4, 4), (3, 3), (1, 1, 1, 1)),
}


@pytest.mark.parametrize(
    ("pool", "kind", "channels"),
    [(pool, kind, (24, 58)[(p + k) % 2]) for p, pool in enumerate(POOLS) for k, kind in enumerate(("max", "avg"))],
)
def test_pooling(pool, kind, channels):
    kernel, stride, padding = POOLS[pool]
    (x,) = tensors((2, 13, 11, channels))
    output = topi.nn.pool2d(x, kernel, stride, (1, 1), padding, kind, layout="NHWC", count_include_pad=False)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding[:2]}
    if kind == "avg":
        options["count_include_pad"] = False
    expected = nhwc(lambda x: getattr(functional, f"{kind}_pool2d")(x, **options))
    sch = check(output, [x], expected)
    assert "pad_temp" not in {sch.get(block).name_hint for block in blocks_of(sch)}


def test_adaptive_pooling():
    (x,) = tensors((1, 10, 13, 20))
    output = topi.nn.adaptive_pool(x, (3, 4), "avg", layout="NHWC")
    check(output, [x], nhwc(lambda x: functional.adaptive_avg_pool2d(x, (3, 4))))


@pytest.mark.parametrize(
    "shape, axes",
    [((2, 7, 7, 58), (1, 2)), ((2, 58, 7, 7), (2, 3)), ((3, 100), (1,)), ((100, 3), (0,)), ((5, 300), (1,))],
)
@pytest.mark.parametrize("keep", [False, True])
def test_means(shape, axes, keep):
    (x,) = tensors(shape)
    count = np.prod([shape[axis] for axis in axes])
    output = topi.divide(topi.sum(x, axes, keepdims=keep), float(count))
    check(output, [x], lambda x: x.mean(axes, keepdim=keep))


@pytest.mark.parametrize("shape", [(9, 50), (10, 16)])
def test_a_mean_of_everything(shape):
    (x,) = tensors(shape)
    check(topi.divide(topi.sum(topi.nn.relu(x), (0, 1)), 7.0), [x], lambda x: x.relu().sum() / 7, tolerance=1e-4)


@pytest.mark.parametrize("shape", [(4, 16), (3, 5, 49), (2, 197), (1, 1000), (6, 3)])
def test_softmax(shape):
    (x,) = tensors(shape)
    sch = check(topi.nn.softmax(x), [x], lambda x: torch.softmax(x, -1))
    assert len({sch.get(sch.get_loops(block)[0]).loop_var for block in blocks_below(sch)}) == 1  # one loop over rows


def test_softmax_along_another_axis():
    (x,) = tensors((3, 20, 17))
    check(topi.nn.softmax(x, axis=1), [x], lambda x: torch.softmax(x, 1))


@pytest.mark.parametrize("shape", [(2, 7, 7, 96), (3, 50), (1, 5, 768), (4, 197)])
def test_layer_norm(shape):
    x, scale, shift = tensors(shape, shape[-1:], shape[-1:])
    output = topi.nn.layer_norm(x, scale, shift, [len(shape) - 1], 1e-5)
    expected = lambda x, scale, shift: functional.layer_norm(x, shape[-1:], scale, shift, 1e-5)  # noqa: E731
    check(output, [x, scale, shift], expected)


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 40), (40, 100)),
        ((13, 7), (7, 29)),
        ((64, 64), (64, 64)),
        ((3, 17, 8), (3, 8, 19)),
        ((2, 49, 32), (2, 32, 49)),
    ],
)
@pytest.mark.parametrize("activation", [(lambda y: y, lambda y: y), (topi.nn.relu, torch.relu)])
def test_matrix_products(shapes, activation):
    a, b = tensors(*shapes)
    output = topi.nn.batch_matmul(a, b, transpose_b=False) if len(shapes[0]) == 3 else topi.matmul(a, b)
    check(activation[0](output), [a, b], lambda a, b: activation[1](a @ b))


def test_a_product_with_a_transposed_matrix():
    a, b = tensors((9, 40), (11, 40))
    check(topi.nn.dense(a, b), [a, b], lambda a, b: a @ b.T)


def test_convolutions_without_a_kernel_of_their_own():
    x, w = tensors((2, 5, 30), (7, 5, 3))
    check(topi.nn.conv1d(x, w, 2, 1, 1, 1), [x, w], lambda x, w: functional.conv1d(x, w, stride=2, padding=1))
    x, w = tensors((1, 4, 9, 10), (8, 4, 3, 3))
    check(topi.nn.conv2d(x, w, 1, 1, 1, "NCHW"), [x, w], lambda x, w: functional.conv2d(x, w, padding=1))
    x, w = tensors((1, 3, 5, 6, 7), (4, 3, 3, 3, 3))
    check(
        topi.nn.conv3d_ncdhw(x, w, 1, 1, 1, 1), [x, w], lambda x, w: functional.conv3d(x, w, padding=1), tolerance=1e-4
    )
    x, w = tensors((1, 4, 7, 7), (4, 6, 3, 3))
    transposed = topi.nn.conv2d_transpose_nchw(x, w, (2, 2), (1, 1, 1, 1), "float32", (0, 0))
    check(transposed, [x, w], lambda x, w: functional.conv_transpose2d(x, w, stride=2, padding=1))


def test_resize():
    (x,) = tensors((1, 6, 5, 17))
    output = topi.image.resize2d(x, (0, 0, 0, 0), (12, 10), "NHWC", "nearest_neighbor", "asymmetric", "floor")
    check(output, [x], nhwc(lambda x: functional.interpolate(x, (12, 10))))


def test_what_it_cannot_improve_stays_correct():
    (x,) = tensors((5, 37))
    check(topi.argmax(x, 1), [x], lambda x: x.argmax(1))
    check(topi.cumsum(x, 1), [x], lambda x: x.cumsum(1))
    check(topi.sort(x), [x], lambda x: x.sort(-1).values)


@pytest.mark.parametrize("cores", [2, 4])
def test_work_for_several_cores(cores):
    target = replace(ONE_CORE, cores=cores)
    a, b = tensors((64, 40), (40, 96))
    check(topi.matmul(a, b), [a, b], lambda a, b: a @ b, target)
    (x,) = tensors((1, 28, 28, 48))
    pool = topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max", layout="NHWC")
    check(pool, [x], nhwc(lambda x: functional.max_pool2d(x, 3, 2, 1)), target)


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="runs AVX2 code")
def test_avx2_gives_the_same_numbers():
    target = targets.get("x86-avx2")
    a, b = tensors((13, 40), (40, 50))
    check(topi.matmul(a, b), [a, b], lambda a, b: a @ b, target)
    (x,) = tensors((5, 197))
    check(topi.nn.softmax(x), [x], lambda x: torch.softmax(x, -1), target)


def test_a_process_that_made_extremes_known_ends_well():
    """TVM drops its reducers after Python has ended."""
    code = "from tvm_sched.kernels.generic.reduce_rows import make_extremes_known; make_extremes_known()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
