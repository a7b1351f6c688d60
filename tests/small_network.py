"""A network for tests of commands: of every stage something to do, and little of it."""

from torch import nn


def small(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Two layers beside the classifier: one dense, one to prune."""
    layers = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, num_classes))
