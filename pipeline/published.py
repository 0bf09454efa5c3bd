"""Published self-supervised teachers: architecture, layout of their files, and what they were fed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from pipeline.preprocessing import IMAGENET, Transform

Layout = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a backbone is made: its module, its preprocessing, and how a weights file becomes its state dict.

    layout turns a file's names into the module's; spare are layers of the file that no feature needs.
    """

    module: nn.Module
    architecture: str
    feature: str
    preprocessing: Transform
    layout: Layout = dict
    spare: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TeacherEntry:
    """A named teacher: what a person reads about it, and its recipe.

    weights: where to get the file for --weights; None when the teacher needs none.
    """

    description: str
    licence: str
    weights: str | None
    recipe: Callable[[], Recipe]


def without(*heads: str) -> Layout:
    """A layout with the backbone's own names and without the heads, which are named by their prefix."""

    def layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in state.items() if not name.startswith(heads)}

    return layout


def moco_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MoCo's query encoder; its key encoder, queue and projection head are left out."""
    kept = without("encoder_q.fc.", "encoder_k.", "queue")(state)
    return {name.removeprefix("encoder_q."): tensor for name, tensor in kept.items()}


class WideResNet50(ResNet):
    """torchvision's ResNet-50 with every layer, stem included, `width` times as wide (Chen et al. 2020)."""

    def __init__(self, width: int) -> None:
        self.times = width
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.fc = nn.Identity()

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **settings: Any) -> nn.Sequential:
        if planes == 64:  # the first layer: torchvision has just made its stem, of 64 channels
            self.inplanes = 64 * self.times
            self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        return super()._make_layer(block, planes * self.times, *arguments, **settings)


def moco_v2() -> Recipe:
    """Input and feature as in MoCo v2 (Chen et al. 2020, arXiv 2003.04297)."""
    return Recipe(
        module=WideResNet50(1),
        architecture="ResNet-50",
        feature="global average pool",
        preprocessing=IMAGENET,
        layout=moco_layout,
    )


def swav() -> Recipe:
    """Input and feature as in SwAV (Caron et al. 2020, arXiv 2006.09882), whose first deviation is 0.228."""
    return Recipe(
        module=WideResNet50(1),
        architecture="ResNet-50",
        feature="global average pool",
        preprocessing=replace(IMAGENET, std=(0.228, 0.224, 0.225)),
        layout=without("projection_head.", "prototypes"),
    )


def simclr_x4() -> Recipe:
    """SimCLR's ResNet-50 (4x) (Chen et al. 2020, arXiv 2002.05709): its input is [0, 1], not standardised."""
    return Recipe(
        module=WideResNet50(4),
        architecture="ResNet-50 x4",
        feature="global average pool",
        preprocessing=replace(IMAGENET, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        layout=without("fc."),
    )


PUBLISHED = {
    "moco_v2_resnet50": TeacherEntry(
        description="MoCo v2, ResNet-50, 800 epochs, 2048-d at 224 px",
        licence="CC BY-NC 4.0",
        weights="moco_v2_800ep_pretrain.pth.tar of github.com/facebookresearch/moco",
        recipe=moco_v2,
    ),
    "swav_resnet50": TeacherEntry(
        description="SwAV, ResNet-50, 800 epochs, 2048-d at 224 px",
        licence="CC BY-NC 4.0",
        weights="swav_800ep_pretrain.pth.tar of github.com/facebookresearch/swav",
        recipe=swav,
    ),
    "simclr_resnet50x4": TeacherEntry(
        description="SimCLR v1, ResNet-50 four times as wide, 8192-d at 224 px",
        licence="Apache-2.0",
        weights="resnet50-4x.pth as github.com/tonylins/simclr-converter makes it",
        recipe=simclr_x4,
    ),
}
