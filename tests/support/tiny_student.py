"""Students that train in milliseconds, one with what makes exact resuming hard: BatchNorm and dropout."""

from collections import OrderedDict

from torch import nn


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def normalized() -> nn.Module:
    """Return a student whose BatchNorm sees one value per image and channel."""
    return nn.Sequential(plain(), nn.BatchNorm1d(32))


def constant() -> nn.Module:
    """Return a student with the same features for every image until it is trained."""
    layer = nn.Conv2d(3, 8, 3, stride=2)
    nn.init.zeros_(layer.weight)
    nn.init.ones_(layer.bias)
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def staged() -> nn.Module:
    """Return a student of four stages with a ResNet's names."""
    stages = {f"layer{n}": nn.Conv2d(3 if n == 1 else 4, 4, 3, stride=2, padding=1) for n in (1, 2, 3, 4)}
    return nn.Sequential(OrderedDict(**stages, flatten=nn.Flatten()))
