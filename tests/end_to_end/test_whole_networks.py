"""Networks of every common kind, dense and with uniform 1xN zeros, compiled and compared with PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zeros import calibrate, prune

import tvm_sched


def conv_bn(channels, out_channels, kernel=1, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), act())


class Classifier(nn.Module):
    """A stem, a body, and a linear layer on the mean of the image."""

    def __init__(self, *body, channels=64, classes=10):
        super().__init__()
        self.stem, self.body, self.classify = conv_bn(3, 64, 3, 2), nn.Sequential(*body), nn.Linear(channels, classes)

    def forward(self, x):
        return self.classify(self.body(self.stem(x)).mean((2, 3)))


class Residual(nn.Module):
    """ResNet's block; `groups` of the 3x3 convolution make it ResNeXt's."""

    def __init__(self, channels, out_channels, stride=1, groups=1):
        super().__init__()
        self.a, self.b = conv_bn(channels, 64), conv_bn(64, 64, 3, stride, groups)
        self.c = conv_bn(64, out_channels, act=nn.Identity)
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else conv_bn(channels, out_channels, stride=stride, act=nn.Identity)

    def forward(self, x):
        return F.relu(self.c(self.b(self.a(x))) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """MobileNetV3's block, with squeeze and excite."""

    def __init__(self, channels, stride=1):
        super().__init__()
        self.expand = conv_bn(channels, 128, act=nn.Hardswish)
        self.depthwise = conv_bn(128, 128, 5, stride, groups=128, act=nn.Hardswish)
        self.squeeze, self.excite = nn.Conv2d(128, 32, 1), nn.Conv2d(32, 128, 1)
        self.project = conv_bn(128, channels, act=nn.Identity)
        self.residual = stride == 1

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.project(y) + x if self.residual else self.project(y)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half), conv_bn(half, half, 3, groups=half, act=nn.Identity), conv_bn(half, half)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x):
        kept, changed = x.chunk(2, 1)
        return self.shuffle(torch.cat([kept, self.branch(changed)], 1))


class DenseLayer(nn.Module):
    """DenseNet's: normalised before the convolution, its output beside its input."""

    def __init__(self, channels, growth=64):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 64, 1, bias=False),
            nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


class Inception(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.b = conv_bn(channels, 64), nn.Sequential(conv_bn(channels, 32), conv_bn(32, 64, 3))
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(channels, 64))
        self.d = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(channels, 64, 3))

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.scale * self.project(F.gelu(self.expand(y))).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """A vision transformer: patches, a position's embedding, encoder blocks of PyTorch's own."""

    def __init__(self):
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 64, 8, 8), nn.Parameter(0.1 * torch.randn(1, 16, 64))
        self.encode = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(64, 4, 128, activation=F.gelu, norm_first=first, batch_first=True)
                for first in (True, False)
            )
        )
        self.classify = nn.Linear(64, 10)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.classify(self.encode(tokens).mean(1))


NETWORKS = {
    "residual": lambda: Classifier(
        Residual(64, 64), Residual(64, 128, 2), nn.MaxPool2d(3, 2, 1), Residual(128, 128), channels=128
    ),
    "grouped": lambda: Classifier(Residual(64, 128, 2, groups=4), Residual(128, 128, groups=8), channels=128),
    "inverted residual": lambda: Classifier(InvertedResidual(64), InvertedResidual(64, 2)),
    "shuffle": lambda: Classifier(ShuffleUnit(64), ShuffleUnit(64)),
    "dense block": lambda: Classifier(
        DenseLayer(64), DenseLayer(128), conv_bn(192, 64), nn.AvgPool2d(2), DenseLayer(64), channels=128
    ),
    "inception": lambda: Classifier(Inception(64), nn.MaxPool2d(3, 2), conv_bn(256, 64)),
    "convnext": lambda: Classifier(ConvNeXtBlock(64), nn.Conv2d(64, 128, 2, 2), ConvNeXtBlock(128), channels=128),
    "transformer": Tokens,
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 32 * 32, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.Tanh(),
        nn.Linear(64, 10),
    ),
    "vgg": lambda: nn.Sequential(
        conv_bn(3, 64, 3),
        nn.MaxPool2d(2),
        conv_bn(64, 64, 3),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(64 * 49, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 10),
    ),
}


def built(name, n, density, batch):
    """(network, input): seeded, of unit scale, pruned where `n` is given."""
    torch.manual_seed(0)
    network, x = NETWORKS[name](), torch.randn(batch, 3, 32, 32)
    if n is not None:
        prune(network, n, density)
    return calibrate(network, torch.randn(16, 3, 32, 32)), x


def error(artifact, network, x):
    with torch.no_grad():
        expected = network(x).numpy()
    assert 0.05 < np.abs(expected).max() < 50  # so that the tolerance means something
    return np.abs(artifact(x.numpy()) - expected).max()


CASES = [
    (name, (4, 8, 16, 32, 64)[number % 5], (0.01, 0.25, 0.5)[number % 3], 3 - 2 * (number % 2))
    for number, name in enumerate(NETWORKS)
]
CASES += [(name, None, 1.0, 1) for name in ("residual", "grouped", "transformer", "vgg")]  # has all kinds of layers


@pytest.mark.parametrize(("name", "n", "density", "batch"), CASES, ids=lambda value: str(value))
def test_computes_what_pytorch_does(name, n, density, batch):
    network, x = built(name, n, density, batch)
    artifact = tvm_sched.compile(network, x)
    assert error(artifact, network, x) < 1e-4
    assert artifact.check() < 1e-4
    if n is not None and density <= 0.5:
        assert any("skipped" in row.why and row.n for row in artifact.explain())


@pytest.mark.parametrize(("n", "density"), [*((n, 0.01) for n in (4, 8, 16, 32, 64)), (4, 0.5), (64, 0.5)])
def test_every_block_size_from_one_block_to_all(n, density):
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 1),
        nn.ReLU(),
        nn.Conv2d(128, 64, 3, 2),
        nn.Flatten(),
        nn.Linear(64 * 9, 64),
    ]
    network = prune(nn.Sequential(*layers), n, density).eval()
    x = torch.randn(1, 64, 7, 7)
    for parameter in network.parameters():
        parameter.data *= 2
    artifact = tvm_sched.compile(network, x)
    assert error(artifact, network, x) < 1e-4
    if density == 0.01:
        assert [row.n for row in artifact.explain()] == [n] * 4


@pytest.mark.parametrize("target", ["x86-avx2"])
@pytest.mark.parametrize("name", ["residual", "inverted residual", "transformer"])
def test_code_for_narrower_vectors_computes_the_same(name, target):
    network, x = built(name, 16, 0.25, 1)
    assert error(tvm_sched.compile(network, x, target=target, threads=1), network, x) < 1e-4


def test_the_dense_baseline_ignores_zeros_and_computes_the_same():
    network, x = built("residual", 16, 0.25, 1)
    artifact = tvm_sched.compile(network, x, dense=True)
    assert error(artifact, network, x) < 1e-4
    assert all(row.kept == row.total and row.n is None for row in artifact.explain())


def test_a_layer_of_zeros_leaves_its_bias():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    nn.init.zeros_(network[2].weight)
    nn.init.ones_(network[2].bias)
    x = torch.randn(2, 3, 9, 9)
    artifact = tvm_sched.compile(network, x)
    assert error(artifact, network, x) < 1e-4
    assert [row.kernel for row in artifact.explain()][1] == "zeros"


def test_output_channels_that_no_block_size_divides():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(10 * 36, 22)).eval()
    network[0].weight.data[:8, :12] = network[0].weight.data[8:, 12:] = 0
    network[3].weight.data[:16, 90:] = network[3].weight.data[16:, :90] = 0
    x = torch.randn(1, 16, 8, 8)
    assert error(tvm_sched.compile(network, x), network, x) < 1e-4


def test_zeros_at_random_and_groups_that_differ():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    network[0].weight.data *= torch.rand(64, 64, 1, 1) < 0.1
    network[2].weight.data[:16, 5:] = network[2].weight.data[32:48] = 0
    x = torch.randn(1, 64, 10, 10)
    assert error(tvm_sched.compile(network, x), network, x) < 1e-4


def test_resnet18_of_torchvision():
    from subp.common.vision import import_torchvision

    torch.manual_seed(0)
    network, x = import_torchvision().models.resnet18(num_classes=50), torch.randn(1, 3, 64, 64)
    (
        prune(network.layer1, 16, 0.25),
        prune(network.layer2, 16, 0.25),
        prune(network.layer3, 16, 0.25),
        prune(network.layer4, 16, 0.25),
    )
    network = calibrate(network, torch.randn(4, 3, 64, 64))
    artifact = tvm_sched.compile(network, x)
    assert error(artifact, network, x) < 1e-4
    rows = {row.name: row for row in artifact.explain()}
    assert len(rows) == 21
    assert (rows["conv1"].n, rows["fc"].n) == (None, None)
    assert (rows["layer4.1.conv2"].n, rows["layer4.1.conv2"].kept, rows["layer4.1.conv2"].total) == (16, 128, 512)
