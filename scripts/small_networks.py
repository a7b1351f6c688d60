"""Networks of the grids that `subp.models` does not have, as `--model scripts/small_networks.py:NAME` takes them."""

from torch import nn

from subp.common.vision import import_torchvision


def mobilenet_v2_x0_5(num_classes: int, in_channels: int) -> nn.Module:
    """MobileNetV2 of half the width, with ReLU6, for small images: the first convolution has stride 1."""
    network = import_torchvision().models.mobilenet_v2(num_classes=num_classes, width_mult=0.5)
    stem = network.features[0]
    stem[0] = nn.Conv2d(in_channels, stem[0].out_channels, 3, padding=1, bias=False)
    return network
