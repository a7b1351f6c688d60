"""MobileNetV1: thirteen depthwise-separable convolutions (Howard et al., arXiv 1704.04861, table 1)."""

from torch import Tensor, nn

# (output channels at width 1, stride) of each depthwise-separable convolution
_LAYERS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


class MobileNetV1(nn.Module):
    """Images [B, in_channels, H, W], H and W from 32 up (224 in the paper) -> logits [B, num_classes].

    width: multiplies every layer's channels (the paper's alpha).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv_bn_relu(in_channels, channels, 3, stride=2)
        layers = []
        for base, stride in _LAYERS:
            outputs = int(base * width)
            depthwise = _conv_bn_relu(channels, channels, 3, stride, groups=channels)
            layers.append(nn.Sequential(depthwise, _conv_bn_relu(channels, outputs, 1)))
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(self.conv1(x))).flatten(1))


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
