"""What is chosen for a layer, and how it is told: block size found, blocks kept, the kernel, the reason, the layer's
name.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zeros import keep_blocks

from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation

AVX512 = replace(targets.X86_AVX512, cores=1)


def choices(network, *shape, target=AVX512, dense=False):
    compilation = Compilation(target, dense=dense)
    pipeline.fused(torch_export.from_torch(network.eval(), torch.zeros(shape)), compilation)
    return list(compilation.choices.values())


def choice(layer, n=None, kept=None, dense=False, size=14, target=AVX512):
    """The row of a single layer, whose groups of `n` output channels keep `kept` blocks (a number, or one a group)."""
    if n is not None:
        layer = copy.deepcopy(layer)
        layer.weight.data = torch.from_numpy(keep_blocks(layer.weight.detach().numpy(), n, kept))
    shape = (1, layer.in_channels, size, size) if isinstance(layer, nn.Conv2d) else (1, layer.in_features)
    (row,) = choices(layer, *shape, dense=dense, target=target)
    return row


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(128, 64, 1), nn.Conv2d(128, 64, 3, padding=1), nn.Linear(128, 64)], ids=["1x1", "3x3", "linear"]
)
@pytest.mark.parametrize("kept", [1, 32])
def test_uniform_1x16_skips_what_it_can(layer, kept):
    row = choice(layer, 16, kept)
    assert (row.n, row.kept, row.total) == (16, kept, 128)
    assert row.kernel.endswith("1x16")
    assert row.why == f"{1 - kept / 128:.0%} of the blocks are skipped"


@pytest.mark.parametrize("n", [32, 64])
def test_wide_blocks_keep_what_they_kept(n):
    row = choice(nn.Conv2d(128, 256, 1), n, 16)
    assert (row.n, row.kept, row.total) == (n, 16, 128)
    assert "88% of the blocks are skipped" in row.why


def test_narrow_blocks_run_as_wide_ones_where_their_union_is_cheaper():
    row = choice(nn.Conv2d(256, 64, 1), 4, 2)
    assert row.n == 4
    assert row.kernel.endswith("1x16")
    assert row.kept <= 4 * 2  # at most what four groups keep
    assert "1x4 zeros run as 1x16, estimated faster" in row.why


def test_narrow_blocks_whose_union_keeps_all_run_densely():
    row = choice(
        nn.Conv2d(64, 64, 1), 4, 58
    )  # 6 of 64 dropped: no channel is dropped by four groups at once, but for one in 10^4
    assert (row.n, row.kept, row.total) == (4, 64, 64)
    assert row.why.startswith("dense: ")


@pytest.mark.parametrize("stride", [1, 2])
def test_narrow_blocks_run_with_lanes_over_pixels(stride):
    row = choice(nn.Conv2d(256, 128, 1, stride), 4, 64, size=14 * stride)
    assert (row.n, row.kept, row.kernel) == (4, 64, "pixel lanes 1x4")


def test_narrow_blocks_stay_narrow_where_lanes_are_few():
    row = choice(nn.Conv2d(128, 64, 1), 4, 32, target=replace(targets.CORTEX_A76, cores=1))
    assert (row.n, row.kept) == (4, 32)
    assert row.kernel.endswith("1x4")


def test_groups_that_differ_are_filled_up_to_the_fullest():
    row = choice(nn.Conv2d(40, 64, 1), 16, [3, 7, 7, 5])
    assert (row.n, row.kept, row.total) == (16, 7, 40)
    assert "not uniform (3 to 7 kept a group)" in row.why


def test_a_dense_layer_keeps_everything():
    row = choice(nn.Conv2d(64, 64, 1))
    assert (row.n, row.kept, row.total) == (None, 64, 64)
    assert row.why == "dense: no 1xN blocks of zeros"


def test_zeros_are_ignored_when_asked():
    row = choice(nn.Conv2d(64, 64, 1), 16, 4, dense=True)
    assert (row.n, row.kept, row.total) == (None, 64, 64)
    assert row.why == "dense: zeros ignored as asked"


@pytest.mark.parametrize("layer", [nn.Conv2d(32, 64, 3), nn.Linear(32, 64), nn.Conv2d(32, 64, 1, groups=4)])
def test_a_layer_of_zeros_computes_nothing(layer):
    layer = copy.deepcopy(layer)
    nn.init.zeros_(layer.weight)
    row = choice(layer)
    assert (row.kept, row.kernel, row.why) == (0, "zeros", "no block is kept")
    assert choice(layer, dense=True).kept > 0


def test_a_grouped_convolution_skips_blocks_outside_its_groups():
    row = choice(nn.Conv2d(64, 64, 3, groups=4))
    assert (row.n, row.total) == (None, 64)
    assert row.kept == 16  # a group's channels
    assert "blocks outside the 4 groups are skipped" in row.why


def test_a_grouped_convolution_skips_zeros_inside_its_groups_too():
    row = choice(nn.Conv2d(64, 64, 3, groups=4), 16, 4)
    assert (row.n, row.kept, row.total) == (16, 4, 64)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_has_a_kernel_of_its_own(stride):
    row = choice(nn.Conv2d(32, 32, 3, stride, padding=1, groups=32))
    assert row.kernel.startswith("depthwise")
    assert (row.n, row.kept, row.total) == (None, 1, 1)


@pytest.mark.parametrize(
    ("layer", "op", "shape", "macs"),
    [
        (nn.Conv2d(3, 16, 3), "conv2d 3x3", "3x14x14 -> 16x12x12", 12 * 12 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 7, 2, padding=3), "conv2d 7x7 stride 2", "3x14x14 -> 16x7x7", 7 * 7 * 16 * 3 * 49),
        (nn.Conv2d(8, 16, 3, dilation=2), "conv2d 3x3 dilation 2", "8x14x14 -> 16x10x10", 100 * 16 * 8 * 9),
        (nn.Conv2d(8, 16, 1, groups=2), "conv2d 1x1 groups 2", "8x14x14 -> 16x14x14", 196 * 16 * 4),
        (nn.Linear(20, 16), "linear", "1x20 -> 16", 20 * 16),
    ],
)
def test_layers_are_described_by_shape_and_dense_work(layer, op, shape, macs):
    row = choice(layer)
    assert (row.op, row.shape, row.macs) == (op, shape, macs)


def test_the_work_counts_the_whole_batch_and_every_row():
    assert choices(nn.Conv2d(8, 16, 1), 3, 8, 5, 4)[0].macs == 3 * 5 * 4 * 8 * 16
    assert choices(nn.Linear(8, 16), 3, 7, 8)[0].macs == 3 * 7 * 8 * 16


def test_rows_are_in_the_order_of_the_network_with_its_names():
    class Inverted(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify = nn.Linear(16, 5)
            self.project, self.depthwise, self.expand = (
                nn.Conv2d(32, 16, 1),
                nn.Conv2d(32, 32, 3, groups=32),
                nn.Conv2d(16, 32, 1),
            )
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
            nn.init.zeros_(self.project.weight)

        def forward(self, x):
            y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(self.stem(x))))))
            return self.classify(y.mean((2, 3)))

    rows = choices(Inverted(), 1, 3, 12, 12)
    assert [row.name for row in rows] == ["stem.0", "expand", "depthwise", "project", "classify"]
    assert [row.kernel for row in rows if row.name == "project"] == ["zeros"]


def test_layers_that_no_kernel_here_takes_do_not_shift_the_names():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(2),
        nn.Conv1d(4, 6, 3),
        nn.Linear(62, 5),
    )
    assert [row.name for row in choices(network, 1, 3, 6, 6)] == ["0", "2", "4", "5"]


def test_a_convolution_with_a_weight_from_the_network_does_not_shift_the_names():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.generate, self.last = nn.Conv2d(4, 8, 1), nn.Linear(8, 48), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            y = self.first(x)
            return self.last(F.conv2d(y, self.generate(y.mean((0, 2, 3))).view(6, 8, 1, 1)))

    assert [row.name for row in choices(Dynamic(), 1, 4, 6, 6)] == ["first", "generate", "last"]


def test_attention_projections_are_linear_layers():
    """torch decomposes the first into a stack of equal matrices; products of activations are no layers."""
    rows = choices(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, 10, 32)
    assert [(row.name, row.op) for row in rows] == [
        (name, "linear") for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    ]
    assert [row.macs for row in rows] == [20 * 32 * 96, 20 * 32 * 32, 20 * 32 * 64, 20 * 64 * 32]


def test_a_stack_of_different_matrices_is_no_layer():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrices = nn.Parameter(torch.randn(3, 4, 5))

        def forward(self, x):
            return x @ self.matrices

    assert choices(Stack(), 3, 2, 4) == []


def test_batch_norm_does_not_hide_the_pattern():
    network = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64))
    network[0].weight.data = torch.from_numpy(keep_blocks(network[0].weight.detach().numpy(), 16, 8))
    nn.init.uniform_(network[1].weight, 0.5, 2)
    (row,) = choices(network, 1, 64, 8, 8)
    assert (row.n, row.kept, row.total) == (16, 8, 64)


def test_equal_patterns_of_different_weights_are_one_function():
    """Same shapes and counts: one function is compiled, and tuned, for all such layers."""
    network = nn.Sequential(*(nn.Conv2d(64, 64, 1, bias=False) for _ in range(4)))
    for seed, layer in enumerate(network):
        layer.weight.data = torch.from_numpy(keep_blocks(layer.weight.detach().numpy(), 16, 8, seed))
    fused = pipeline.fused(torch_export.from_torch(network.eval(), torch.zeros(1, 64, 8, 8)), Compilation(AVX512))
    calls = [binding.value for binding in pipeline.kernel_bindings(fused)]
    called = [call.args[0].name_hint for call in calls if len(call.args[1]) > 1]
    assert len(called) == 4 and len(set(called)) == 1
    weights = [call.args[1][1] for call in calls if len(call.args[1]) > 1]
    assert len({np.asarray(weight.value.numpy()).tobytes() for weight in weights}) == 4
