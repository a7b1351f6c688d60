"""float16: every kernel against a convolution in double precision of the same numbers, sums in blocks, and the machine
code of the main loops.

The scheduled functions run in this machine's instructions, which compute each operation in float32 and round it.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import nn
from tvm import tirx
from zeros import keep_blocks

from subp_contract.errors import UserError
from tvm_sched import pipeline, precision, targets
from tvm_sched.estimation import machine_model, main_loops
from tvm_sched.estimation.main_loops import Case
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import depthwise_conv2d, direct_conv2d, winograd_conv2d
from tvm_sched.kernels.base import Example
from tvm_sched.kernels.register_tile import MOST_PRODUCTS
from tvm_sched.kernels.winograd_variants import VARIANTS
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.plan import plans_of
from tvm_sched.verification.host import runner
from tvm_sched.verification.ranges import MAGNIFIED

A76 = replace(targets.CORTEX_A76, cores=1)
ULP = 2**-10  # between neighbours from 1 to 2
DIRECT, DEPTHWISE, WINOGRAD = direct_conv2d.KERNEL, depthwise_conv2d.KERNEL, winograd_conv2d.KERNEL


def halves(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Normal numbers that float16 has."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float16").astype("float32")


def run_layer(kernel: str, conv: nn.Conv2d, weight: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what the layer gives in the form whose name begins so, what it is in double precision)."""
    conv.weight.data = torch.from_numpy(weight)
    conv.bias.data = torch.from_numpy(halves(len(weight), seed=5))
    found = []

    def choose(name, layer, target, restriction):
        found.append(next(plan for plan in plans_of(layer, target) if plan.kernel.startswith(kernel)))
        return found[-1]

    imported = torch_export.from_torch(conv, torch.from_numpy(x))
    compilation = Compilation(A76, precision=precision.FLOAT16, choose=choose)
    (output,) = runner(pipeline.build_network(imported, compilation), imported, compilation)([x])
    with torch.no_grad():
        expected = conv.double()(torch.from_numpy(x).double()).numpy()
    assert found[0].form.layer.dtype == "float16" and output.dtype == "float32"
    return output, expected


def sparse(out_channels: int, channels: int, size: int, n: int, kept: int) -> np.ndarray:
    """A weight of blocks of n, for outputs of unit scale."""
    full = halves(out_channels, channels, size, size, scale=(kept * size**2) ** -0.5, seed=1)
    return keep_blocks(full, n, kept)


@pytest.mark.parametrize(
    ("kernel", "kept", "size", "stride", "most"),
    [
        ("direct 1x16", 48, 1, 1, 1.0e-3),  # one block of products
        ("direct 1x16", 200, 1, 1, 1.2e-3),  # several, and one that is shorter
        ("direct 1x8", 128, 3, 2, 1.5e-3),
        ("direct 1x32", 13, 3, 1, 1.2e-3),
        ("winograd F(2,3) 1x16", 40, 3, 1, 2.0e-3),
        ("winograd F(4,3) 1x16", 100, 3, 1, 6.5e-3),
    ],
)
def test_a_kernels_error_is_a_few_roundings(kernel, kept, size, stride, most):
    weight = sparse(64, 256, size, 16, kept)
    conv = nn.Conv2d(256, 64, size, stride, size // 2)
    output, expected = run_layer(kernel, conv, weight, halves(1, 256, 9, 10, seed=2))
    error = output - expected
    assert np.abs(error).max() <= 4 * ULP * np.sqrt(kept * size**2)
    assert np.sqrt(np.mean(error**2)) <= most * np.sqrt(np.mean(expected**2))


def test_a_depthwise_kernels_error_is_a_few_roundings():
    conv = nn.Conv2d(40, 40, 5, 2, 2, groups=40)
    output, expected = run_layer(
        "depthwise", conv, halves(40, 1, 5, 5, scale=0.2, seed=3), halves(1, 40, 11, 9, seed=4)
    )
    assert np.abs(output - expected).max() <= 4 * ULP * 5


def test_sums_in_blocks_round_less_than_sums_at_once(monkeypatch):
    def rms_error():
        output, expected = run_layer("direct 1x16", nn.Conv2d(1024, 16, 1), weight, x)
        return np.sqrt(np.mean((output - expected) ** 2))

    weight, x = sparse(16, 1024, 1, 16, 1024), halves(1, 1024, 6, 6, seed=6)
    in_blocks = rms_error()
    monkeypatch.setattr("tvm_sched.kernels.register_tile.MOST_PRODUCTS", 1 << 20)
    assert in_blocks < 0.5 * rms_error()  # by the theory sqrt((64 + 1024 / 64) / 1024) = 0.28


@pytest.mark.parametrize(("channels", "blocks"), [(100, {20, 5}), (101, {14, 7, 3})])
def test_a_block_has_no_more_products_than_it_may(channels, blocks):
    """Of 9 products a channel: at most 7 channels, a divisor of all where one is near."""
    assert 7 * 9 <= MOST_PRODUCTS < 8 * 9
    seen = {}
    imported = torch_export.from_torch(nn.Conv2d(channels, 16, 3), torch.zeros(1, channels, 5, 5))
    compilation = Compilation(A76, precision=precision.FLOAT16, observe=seen.__setitem__)
    compilation.choose = lambda name, layer, target, restriction: next(
        plan for plan in plans_of(layer, target) if plan.kernel == "direct 1x16"
    )
    pipeline.build_network(imported, compilation)
    extents = loop_extents(seen["sum_in_blocks"])
    assert blocks <= extents and channels not in extents


def loop_extents(mod) -> set[int]:
    """Of the loops of the functions that compute in float16."""
    found: set[int] = set()
    for func in mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            tvm_ffi.structural_walk(func.body, (tirx.For, lambda loop: found.add(int(loop.extent))), order="post")
    return found


@pytest.mark.parametrize("variant", [each.of_dtype("float16") for each in VARIANTS], ids=str)
def test_the_transforms_for_half_precision_are_a_convolution(variant):
    rng, e, r = np.random.default_rng(0), variant.size, variant.taps
    x, w = rng.standard_normal((e, e)), rng.standard_normal((r, r))
    g = np.array(variant.weight)
    b, a = np.array(variant.input(list(np.eye(e)))), np.array(variant.output(list(np.eye(e))))
    y = a @ ((g @ w @ g.T) * (b @ x @ b.T)) @ a.T
    expected = [[(x[i : i + r, j : j + r] * w).sum() for j in range(variant.m)] for i in range(variant.m)]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    assert np.abs(b).sum(axis=1).max() ** 2 <= MAGNIFIED


def has_model() -> bool:
    try:
        machine_model.require(A76)
    except UserError:
        return False
    return True


LOOPS = [
    *(
        Case(DIRECT, Example(n, sparse, 3, stride))
        for n, sparse, stride in ((8, False, 1), (8, True, 1), (16, True, 2))
    ),
    *(Case(DIRECT, Example(n, sparse, 1)) for n, sparse in ((8, True), (16, True), (16, False), (32, True))),
    *(Case(WINOGRAD, Example(n, sparse, 3)) for n, sparse in ((8, True), (16, True), (16, False))),
    Case(DEPTHWISE, Example(1, False, 3)),
]


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_main_loops_keep_to_registers_and_are_bound_by_multiply_adds(case):
    tile, loop = main_loops.of(case, A76, "float16")
    assert loop.stack == 0, tile
    assert not any("\tdup\t" in line for line in loop.body)
    assert all(".8h" in line for line in loop.body if "\tfmla\t" in line)
    if case.kernel is not DEPTHWISE:
        spread = sum("\tld1r\t" in line for line in loop.body)
        assert loop.by_element == loop.fmas or spread
        assert loop.by_element >= loop.fmas / 2
    if has_model():
        assert loop.fma_bound(A76) >= (0.7 if case.kernel is DEPTHWISE else 0.9)
