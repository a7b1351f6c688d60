"""Activations channels last: every operator that the pass knows, and those that it does not, compute what they did; few
permutations are left.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from permutations import Then, permutations
from torch import nn


def elementwise(*functions):
    """Permutations beside the image's and the results'."""
    return permutations(Then(*functions), 2, 4, 5, 6) - 1 - len(functions)


CONVOLUTIONS = (
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "groups": 2},
    {"kernel_size": 3, "groups": 8, "padding": "same"},
)
POOLS = (
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.MaxPool2d(3, stride=2, ceil_mode=True),
    nn.MaxPool2d(2, dilation=2),
    nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0)),
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, stride=2, padding=1),
    nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    nn.AvgPool2d(3, stride=2, ceil_mode=True),
    nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    nn.AdaptiveAvgPool2d((3, 2)),
)  # fmt: skip


def test_convolutions():
    convs = nn.ModuleList(nn.Conv2d(8, 8, **options) for options in CONVOLUTIONS)
    network = Then(*convs)
    network.convs = convs  # registers the parameters
    assert permutations(network, 2, 4, 9, 8) == 1 + len(convs)


def test_pools():
    assert permutations(Then(*POOLS), 2, 4, 9, 10) == 1 + len(POOLS)


@pytest.mark.parametrize("size", [9, 10, 11])
def test_pools_of_sizes_that_the_stride_does_not_divide(size):
    pools = [nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)]
    permutations(Then(*pools), 1, 4, size, 12)


def test_elementwise_functions_keep_the_order_of_axes():
    assert elementwise(
        F.relu, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.relu6, F.leaky_relu, F.elu, F.softplus, F.mish,
        torch.tanh, torch.sigmoid, torch.exp, torch.abs, torch.neg, torch.erf, torch.square, torch.floor,
        torch.ceil, torch.sign, lambda y: F.gelu(y, approximate="tanh"),
        lambda y: torch.sqrt(y.abs()), lambda y: torch.clamp(y, -0.5, 0.25), lambda y: F.dropout(y, training=False),
        lambda y: torch.pow(y.abs() + 0.1, 1.5), lambda y: torch.where(y > 0.1, y, -y), lambda y: y * (y <= 0),
    ) == 0  # fmt: skip


def test_operations_with_constants_that_broadcast():
    torch.manual_seed(1)
    shapes = [
        (),
        (1,),
        (6,),
        (5, 1),
        (5, 6),
        (8, 1, 1),
        (8, 5, 6),
        (1, 8, 1, 1),
        (2, 8, 5, 6),
        (2, 1, 1, 1),
        (1, 1, 5, 6),
    ]
    assert elementwise(*(lambda y, c=constant: y + c for constant in map(torch.randn, shapes))) == 0
    operations = [
        torch.sub,
        torch.mul,
        torch.div,
        torch.maximum,
        torch.minimum,
        lambda a, b: b - a,
        lambda a, b: b / (a.abs() + 1),
    ]
    constants = [torch.rand(shape) + 0.5 for shape in [(), (6,), (8, 1, 1), (1, 1, 5, 6)]]
    assert (
        elementwise(*(lambda y, f=operation, c=constant: f(y, c) for operation in operations for constant in constants))
        == 0
    )


def test_operations_with_computed_operands_of_lower_rank():
    functions = [
        lambda y: y + y[0, 0],
        lambda y: y * y.mean((0, 3))[:, :, None],
        lambda y: y + y[1],
        lambda y: y - y.mean(),
        lambda y: y + y[0, 0, 0],
    ]
    permutations(Then(*functions), 2, 4, 5, 6)


def test_an_operand_that_is_not_channels_last_is_permuted():
    class Both(Then):
        def forward(self, x):
            return self.conv(x) * x + x

    assert permutations(Both(out_channels=4), 2, 4, 5, 6) == 2


def test_concatenation_along_any_axis():
    assert (
        elementwise(
            *(
                lambda y, axis=axis: torch.cat([F.relu(y), F.max_pool2d(y, 3, 1, 1), y], axis)
                for axis in (0, 1, 2, 3, -1, -3)
            )
        )
        == 0
    )


def test_concatenation_with_a_plain_part():
    class Dense(Then):
        def forward(self, x):
            return torch.cat([x, self.conv(x)], 1)

    assert permutations(Dense(), 2, 4, 5, 6) == 2


def test_splits_along_any_axis():
    def swapped(y, axis, sizes):
        first, last = torch.split(y, sizes, axis)
        return torch.cat([last, first], axis)

    functions = [partial(swapped, axis=axis, sizes=sizes) for axis in (0, 1, 2, 3, -3) for sizes in (2, [1, 3])]
    assert permutations(Then(*functions, out_channels=4), 4, 4, 4, 4) == 1 + len(functions)


def test_chunks_and_slices():
    permutations(
        Then(lambda y: y.chunk(2, 1)[1] * y[:, :4] + y[:, ::2], lambda y: y[:, :, 1:4, ::2], lambda y: y[1]), 2, 4, 5, 6
    )


AXES = [(2, 3), (-1, -2), (3, 2), (1,), (2,), (0, 2, 3), (1, 2, 3), (0,), (2, 1)]


@pytest.mark.parametrize("reduce", [torch.mean, torch.sum])
def test_reductions_over_any_axes(reduce):
    permutations(
        Then(*(partial(reduce, dim=axes, keepdim=keep) for axes in AXES for keep in (False, True)), reduce), 2, 4, 5, 6
    )


@pytest.mark.parametrize("keep", [False, True])
def test_reductions_over_the_image_permute_nothing(keep):
    assert (
        permutations(
            Then(*(partial(reduce, dim=(2, 3), keepdim=keep) for reduce in (torch.mean, torch.sum))), 2, 4, 5, 6
        )
        == 1
    )


def shuffle(y, groups):
    batch, channels, height, width = y.shape
    return (
        y.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    )


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_channel_shuffle_is_one_permutation(groups):
    assert elementwise(partial(shuffle, groups=groups)) == 1
    assert (
        permutations(nn.Sequential(nn.Conv2d(4, 8, 1), nn.ChannelShuffle(groups), nn.Conv2d(8, 4, 1)), 2, 4, 5, 6) == 3
    )


def test_what_only_looks_like_a_channel_shuffle():
    functions = [
        lambda y: y.view(2, 8, 5, 2, 3).transpose(1, 2).reshape(2, 8, 5, 6),  # splits the width
        lambda y: y.view(2, 2, 4, 5, 6).transpose(1, 2).reshape(2, 4, 10, 6),  # joins channels with the height
        lambda y: y.view(1, 2, 8, 5, 6).transpose(1, 2).reshape(2, 8, 5, 6),  # splits the batch
        lambda y: y.view(2, 4, 2, 6, 5).transpose(1, 2).reshape(2, 8, 5, 6),  # not the image's shape between
        lambda y: y.view(2, 4, 2, 5, 6).transpose(2, 3).reshape(2, 8, 5, 6),  # not the channels' axes
    ]
    permutations(Then(*functions), 2, 4, 5, 6)


def test_pixel_shuffle():
    permutations(Then(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), 2, 4, 4, 6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.PixelShuffle(2),
        nn.ConvTranspose2d(8, 2, 2, stride=2),
        nn.ConvTranspose2d(8, 2, 3, stride=(2, 3), padding=1, output_padding=(1, 0)),
        nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1, groups=2),
    ],
    ids=["shuffle", "transposed", "transposed, padded", "transposed, in groups"],
)
def test_channels_that_become_pixels_are_one_permutation(layer):
    assert permutations(nn.Sequential(nn.Conv2d(4, 8, 1), layer, nn.Conv2d(2, 4, 1)), 2, 4, 5, 6) == 3


def test_permutations_by_the_network():
    every = [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (3, 2, 1, 0), (1, 0, 2, 3), (0, 3, 2, 1)]
    once = [lambda y, axes=axes: torch.relu(y.permute(axes)) + 1 for axes in every]
    twice = [lambda y, axes=axes: torch.relu(y.permute(axes).permute(axes)) for axes in every]
    permutations(Then(*once, *twice), 2, 4, 5, 6)


def test_operators_that_the_pass_does_not_know():
    functions = [
        lambda y: F.interpolate(y, scale_factor=2.0), lambda y: F.interpolate(y, size=(7, 9), mode="bilinear"),
        lambda y: y.softmax(1), nn.GroupNorm(2, 8), lambda y: F.pad(y, (1, 2, 0, 1)), lambda y: y.flip(2),
        lambda y: y.cumsum(3), lambda y: F.layer_norm(y, (5, 6)), lambda y: torch.einsum("bchw,bdhw->bcd", y, y),
        lambda y: y @ y.transpose(2, 3), lambda y: y.squeeze().unsqueeze(0), lambda y: F.prelu(y, torch.tensor([0.25])),
        lambda y: y.topk(2, 1)[0], lambda y: F.max_pool2d(y, 2)[:, :, 0], lambda y: y.std((2, 3)),
        lambda y: torch.stack([y, y], 1), lambda y: y.expand(2, 8, 5, 6).repeat(1, 2, 1, 1), lambda y: y.argmax(1),
    ]  # fmt: skip
    permutations(Then(*functions), 2, 4, 5, 6)


def test_a_convolution_whose_weight_is_computed():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last, self.generate = nn.Conv2d(4, 8, 1), nn.Conv2d(6, 4, 1), nn.Linear(8, 6 * 8)

        def forward(self, x):
            y = self.conv(x)
            weight = self.generate(y.mean((0, 2, 3))).view(6, 8, 1, 1)
            return self.last(F.conv2d(y, weight))

    permutations(Dynamic(), 2, 4, 5, 6)
