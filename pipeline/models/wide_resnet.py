"""ResNet-50 and its wide forms, under torchvision's names."""

from typing import Any

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


class WideResNet50(ResNet):
    """torchvision's ResNet-50 without classifier and with every layer, including the stem, `width` times as wide.

    Images (B, 3, H, W) -> features (B, 2048 * width), as in SimCLR (Chen et al. 2020) and SwAV (Caron et al. 2020);
    torchvision's own wide ResNets widen only the inner convolutions.
    """

    def __init__(self, width: int) -> None:
        self.times = width
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.fc = nn.Identity()

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **settings: Any) -> nn.Sequential:
        if planes == 64:  # the first stage: replace the stem of 64 channels that torchvision has just made
            self.inplanes = 64 * self.times
            self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        return super()._make_layer(block, planes * self.times, *arguments, **settings)
