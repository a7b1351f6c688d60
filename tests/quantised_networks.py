"""Quantised networks that several tests share."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block behind a stem, a concatenation, a pool and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.linear = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.classifier = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.linear(self.depthwise(x)) + x)
        x = torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)
        return self.classifier(x.mean((2, 3)))


class Shuffled(nn.Module):
    """Grouped convolutions, a channel shuffle, hardswish, a split and a padded pool; signed throughout."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1, groups=2)
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)
        self.third = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = F.hardswish(self.first(x))
        x = x.view(x.shape[0], 2, 8, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        one, other = self.second(x).chunk(2, 1)
        x = torch.sigmoid(self.third(one)) * other
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 2)


def block(seed: int = 0) -> Block:
    """The block in eval mode, some of its 1x4 blocks zero."""
    torch.manual_seed(seed)
    module = Block().eval()
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        module.linear[0].weight[:4, 1::2] = 0
        module.linear[0].weight[4:, ::2] = 0
    return module


def batches(count: int, *shape: int) -> list[torch.Tensor]:
    """Normally distributed inputs of seeds 0, 1, ..."""
    return [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


def operators(program) -> list:
    """The nodes of a program that compute."""
    return [node for node in program.graph.nodes if hasattr(node.target, "_schema")]


def named(node) -> str:
    """The operator of a node without its namespace, or what an input is called."""
    return node.target._schema.name.split("::")[-1] if hasattr(node.target, "_schema") else node.name
