"""A student for experiments on two CPU cores: ResNet-10 of a quarter of the width."""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock

STAGES = (16, 32, 64, 128)


def resnet10() -> nn.Module:
    """Images (B, 3, H, W) -> features (B, 128): a stem of stride 2 without pooling, and a basic block a stage."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, STAGES[0], 3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(STAGES[0]),
        relu=nn.ReLU(inplace=True),
    )
    width = STAGES[0]
    for number, wider in enumerate(STAGES, start=1):
        layers[f"layer{number}"] = BasicBlock(width, wider, *shortcut(width, wider))
        width = wider
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return nn.Sequential(layers)


def shortcut(width: int, wider: int) -> tuple[int, nn.Module | None]:
    """Return a block's stride, and the projection beside it where its width changes."""
    if wider == width:
        return 1, None
    return 2, nn.Sequential(nn.Conv2d(width, wider, 1, stride=2, bias=False), nn.BatchNorm2d(wider))
