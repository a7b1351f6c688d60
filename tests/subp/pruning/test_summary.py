import io

import pytest
import torch
from rich.console import Console
from torch import nn

from subp import Sparsifier, models
from subp.pruning import summary
from subp.pruning.budget.macs import count_macs
from subp.pruning.selection import all_places


def find_n(weight, groups=1):
    return summary.layer_summary("layer", "Conv2d", weight, groups, None).n


def uniform_weight(outputs, inputs, kernel, n, kept):
    """A weight whose groups of n outputs keep `kept` input channels each, other ones in every group."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.zeros(outputs, inputs, *kernel)
    for group in range(outputs // n):
        for channel in torch.randperm(inputs, generator=draws)[:kept].tolist():
            weight[group * n : (group + 1) * n, channel] = torch.rand(n, *kernel, generator=draws) + 0.5
    return weight


@pytest.mark.parametrize("n", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_n_is_found_in_the_zeros(n, kernel):
    assert find_n(uniform_weight(128, 32, kernel, n, 8)) == n


def test_n_is_found_beside_a_few_zeros_by_chance():
    weight = uniform_weight(64, 32, (), 16, 8)
    weight[weight.nonzero()[0].tolist()[0], weight.nonzero()[0].tolist()[1]] = 0
    assert find_n(weight) == 16


def test_few_scattered_zeros_or_none_at_all_have_no_n():
    scattered = torch.rand(64, 32, generator=torch.Generator().manual_seed(0))
    assert find_n(scattered + 0.1) is None
    assert find_n(scattered * (scattered > 0.03)) is None


def test_a_dead_output_does_not_make_the_blocks_smaller():
    weight = uniform_weight(64, 32, (3, 3), 16, 8)
    weight[5] = 0
    assert find_n(weight) == 16


def test_blocks_lie_within_a_group_of_the_convolution():
    assert find_n(torch.zeros(48, 3, 1, 1), groups=4) == 4


def test_a_weight_of_zeros_only_has_the_largest_n_that_divides():
    assert find_n(torch.zeros(48, 3, 1, 1)) == 16


def test_rows_give_density_work_and_bytes():
    model = nn.Sequential(
        nn.Conv2d(8, 32, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6)
    )
    weight = uniform_weight(32, 8, (3, 3), 16, 2)
    model[0].weight.data.copy_(weight)
    conv, linear = summary.inspect(model, (8, 4, 4))
    assert (conv.name, conv.type, conv.shape, conv.n, conv.density, conv.uniform) == (
        "0",
        "Conv2d",
        (32, 8, 3, 3),
        16,
        0.25,
        True,
    )
    assert conv.macs == 2 * 2 * 32 * 8 * 9 and conv.sparse_macs == 2 * 2 * 32 * 2 * 9
    assert conv.dense_bytes == 32 * 8 * 9 * 4
    assert conv.bsr_bytes == 2 * 2 * (16 * 9 * 4 + 4)
    assert (linear.n, linear.density, linear.uniform, linear.macs) == (None, 1.0, None, 6 * 128)
    assert linear.sparse_macs == linear.macs and linear.bsr_bytes == linear.dense_bytes == 6 * 128 * 4


def test_uneven_groups_are_told_and_need_row_pointers():
    layer = nn.Linear(8, 32)
    layer.weight.data.copy_(uniform_weight(32, 8, (), 16, 2))
    layer.weight.data[:16] = 0
    (row,) = summary.inspect(layer)
    assert (row.n, row.uniform, row.density) == (16, False, 2 / 16)
    assert row.bsr_bytes == 2 * (16 * 4 + 4) + 3 * 4
    assert row.macs is None


def test_grouped_and_reused_layers_count_what_they_compute():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, groups=4, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    (row,) = summary.inspect(Twice(), (8, 5, 5))
    assert row.macs == 2 * 5 * 5 * 8 * (8 // 4) * 9


@pytest.mark.parametrize("name, giga", [("resnet18", 1.8), ("mobilenet_v1", 0.57)])
def test_published_networks_have_their_published_macs(name, giga):
    with torch.device("meta"):
        model = models.create(name, 1000)
    total = sum(count_macs(model, all_places(model), (3, 224, 224)).values())
    assert total / 1e9 == pytest.approx(giga, rel=0.01)  # He et al., table 1; Howard et al., table 6


def test_inspecting_leaves_the_model_as_it_was():
    model = models.create("resnet20", 10)
    model.layer1.eval()
    statistics = model.bn1.running_mean.clone()
    modes = [module.training for module in model.modules()]
    summary.inspect(model, (3, 32, 32))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.bn1.running_mean, statistics)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_in_training_is_seen_masked():
    model = models.create("resnet20", 10)
    Sparsifier(model, epochs=1).step(0)
    row = summary.inspect(model)[1]
    assert (row.name, row.type, row.n, row.density) == ("layer1.0.conv1", "Conv2d", 16, 0.25)


def test_the_table_has_a_line_for_each_layer_and_totals():
    model = nn.Sequential(nn.Linear(1000, 32, bias=False), nn.Linear(32, 10, bias=False))
    model[0].weight.data.copy_(uniform_weight(32, 1000, (), 16, 250))
    console = Console(file=io.StringIO(), width=140)
    console.print(summary.table(summary.inspect(model, (1000,))))
    text = console.file.getvalue()
    assert "32x1000" in text and "10x32" in text
    assert "32,320" in text and f"{(8000 + 320) / 32320:.1%}" in text


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_have_a_row_a_matrix(kind, gates):
    model = nn.Sequential(kind(8, 16, batch_first=True))
    rows = {row.name: row for row in summary.inspect(model, (5, 8))}
    assert {name: row.shape for name, row in rows.items()} == {
        "0.weight_ih_l0": (gates * 16, 8),
        "0.weight_hh_l0": (gates * 16, 16),
    }
    assert rows["0.weight_hh_l0"].macs == 5 * gates * 16 * 16


def test_counting_leaves_frozen_batch_norms_frozen():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    model[1].eval()
    summary.inspect(model, (3, 4, 4))
    assert model.training and model[0].training and not model[1].training
    assert not model[1].num_batches_tracked


def test_half_precision_weights_have_their_pattern():
    assert find_n(uniform_weight(64, 32, (3, 3), 16, 8).bfloat16()) == 16
