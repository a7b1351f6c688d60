"""Networks channels last: blocks of the usual kinds, and of other ranks, keep no permutation that they do not need."""

import pytest
import torch
import torch.nn.functional as F
from permutations import converted, permutations
from relax_run import imported, operators
from torch import nn

from tvm_sched.passes.graph.channels_last import channels_last


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(scale))))


def test_squeeze_and_excite_permutes_nothing():
    assert permutations(nn.Sequential(nn.Conv2d(4, 8, 1), SqueezeExcite(8), nn.Conv2d(8, 4, 1)), 2, 4, 5, 6) == 2


class SqueezeExciteLinear(SqueezeExcite):
    """The same with linear layers on a flat vector, shaped back to an image of one pixel."""

    def forward(self, x):
        scale = F.linear(x.mean((2, 3)), self.reduce.weight[:, :, 0, 0]).relu()
        return x * torch.sigmoid(F.linear(scale, self.expand.weight[:, :, 0, 0]))[:, :, None, None]


def test_squeeze_and_excite_by_linear_layers():
    assert permutations(nn.Sequential(nn.Conv2d(4, 8, 1), SqueezeExciteLinear(8), nn.Conv2d(8, 4, 1)), 2, 4, 5, 6) == 2


class Block(nn.Module):
    """ResNet's."""

    def __init__(self, channels, stride):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, channels, 3, stride, 1), nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.b(F.relu(self.a(x))))


def test_a_chain_of_residual_blocks_permutes_the_image_alone():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Block(8, 1),
        Block(8, 2),
        Block(8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    assert permutations(network, 2, 3, 16, 16) == 1


def test_an_image_of_one_channel_is_not_permuted_at_all():
    assert (
        permutations(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 2, 1, 8, 8)
        == 0
    )


def test_flatten_of_an_image_keeps_the_networks_order():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d((7, 7)), nn.Flatten(), nn.Linear(8 * 7 * 7, 5))
    assert permutations(network, 2, 3, 16, 16) == 2


class ConvNeXt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        y = self.project(F.gelu(self.expand(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return x + self.scale * y.permute(0, 3, 1, 2)


def test_permutations_of_the_network_itself_cancel():
    assert permutations(nn.Sequential(nn.Conv2d(3, 8, 2, 2), ConvNeXt(8), ConvNeXt(8)), 2, 3, 12, 12) == 2


def test_tokens_of_a_vision_transformer():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.qkv = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 48)

        def forward(self, x):
            tokens = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            q, k, v = self.qkv(tokens).view(-1, 9, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return y.transpose(1, 2).reshape(-1, 16, 3, 3)

    permutations(Tokens(), 2, 3, 12, 12)


def test_unknown_operators_between_convolutions():
    network = nn.Sequential(
        nn.Conv2d(4, 8, 1),
        nn.GroupNorm(2, 8),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 8, 3),
        nn.Softmax(1),
        nn.Conv2d(8, 4, 1),
    )
    permutations(network, 2, 4, 5, 6)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"padding": 1}, {"stride": 2, "padding": 2}, {"dilation": 2}, {"groups": 2}, {"groups": 8, "padding": "same"}],
)
def test_convolutions_along_one_axis_are_of_images_of_one_row(kwargs):
    """One permutation in front, one behind."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(4, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 3, **kwargs), nn.ReLU())
    made = operators(converted(network, torch.randn(2, 4, 13)))
    assert made.count("nn.conv2d") == 2 and "nn.conv1d" not in made and made.count("permute_dims") == 2


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.AvgPool1d(2)), (2, 4, 12)),
        (nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.MaxPool3d(2)), (1, 2, 5, 5, 5)),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 8, 2, 2), nn.Conv2d(8, 4, 1)), (2, 4, 5, 6)),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (3, 6)),
        (nn.ReLU(), (2, 3, 4, 5)),
        (nn.Sequential(nn.Unflatten(1, (2, 3, 4)), nn.Conv2d(2, 4, 1), nn.Flatten()), (2, 24)),
    ],
    ids=["conv1d", "conv3d", "transposed", "linear", "relu", "vector to image"],
)
def test_networks_of_other_ranks(network, shape):
    permutations(network, *shape)


def test_several_results_in_the_networks_order_of_axes():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 1)

        def forward(self, x):
            y = self.conv(x)
            return y, y.mean((2, 3)), x, y.relu()

    permutations(Several(), 2, 4, 5, 6)


def test_the_input_keeps_its_name_and_shape():
    before = imported(nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU()), torch.randn(2, 4, 5, 6))
    after = channels_last(before)
    assert [param.name for param in after["main"].params] == [param.name for param in before["main"].params]
    assert [int(extent) for extent in after["main"].params[0].ty.shape] == [2, 4, 5, 6]
    assert [var.name_hint for var in after.functions] == ["main"]
