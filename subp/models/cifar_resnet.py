"""The ResNets for 32x32 images: 6m + 2 layers, three stages of 16, 32, 64 channels (He et al., arXiv 1512.03385, 4.2).

Shortcuts that change shape are 1x1 convolutions with batch norm (the paper's option B). The paper's CIFAR runs pad with
zero channels instead (option A); B costs 1 % more weights, scores alike, and is made of nothing but layers that every
runtime has.
"""

from torch import Tensor, nn
from torch.nn.functional import relu


class CifarResNet(nn.Module):
    """Images [B, in_channels, H, W], H and W any (32 in the paper) -> logits [B, num_classes]. depth = 6m + 2; all
    stages have `width` times the paper's channels.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int = 3, width: int = 1) -> None:
        super().__init__()
        blocks, (first, second, third) = (depth - 2) // 6, (width * channels for channels in (16, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


class BasicBlock(nn.Module):
    """[B, C_in, H, W] -> [B, C_out, H / stride, W / stride]: two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.downsample(x))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
