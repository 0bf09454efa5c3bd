"""Features from an inner layer of a network, with feature maps pooled to at most 9,600 values.

The sizes follow the usual protocol for AlexNet's layers (Zhang, Isola and Efros, ECCV 2016, arXiv 1603.08511).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import AlexNet

from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.models.architectures import describe, feature_width
from pipeline.models.backbone import Backbone

MAX_VALUES = 9_600
# the outputs of ReLUs, as in the papers that probe these layers
ALEXNET = {
    "conv1": "features.1",
    "conv2": "features.4",
    "conv3": "features.7",
    "conv4": "features.9",
    "conv5": "features.11",
    "fc6": "classifier.2",
    "fc7": "classifier.5",
}
STAGES = ("layer1", "layer2", "layer3", "layer4")


class LayerFeatures(nn.Module):
    """Images (B, 3, H, W) -> output of one layer (B, dim), with feature maps pooled.

    path: dotted path of the layer, whose output must be (B, C, H, W) or (B, D).
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        super().__init__()
        self.network, self.path = network, path
        self.found: Tensor | None = None
        network.get_submodule(path).register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> Tensor:
        self.network(images)
        found, self.found = self.found, None
        if found is None:
            raise PipelineError(f"the layer {self.path} is not used in the network's forward pass")
        return found

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            raise PipelineError(
                f"the layer {self.path} returns {describe(output)}; expected a feature map (B, C, H, W) or rows (B, D)"
            )
        # a copy in both cases, because the next layer may work in place
        self.found = pooled(output) if output.ndim == 4 else output.clone()


def pooled(maps: Tensor) -> Tensor:
    """Average maps (B, C, H, W) over the largest square grid with at most 9,600 values: (B, C * h * w)."""
    channels, height, width = maps.shape[1:]
    side = max(1, int((MAX_VALUES / channels) ** 0.5))
    return F.adaptive_avg_pool2d(maps, (min(side, height), min(side, width))).flatten(1)


def layers_of(network: nn.Module, layer: str) -> list[str]:
    """Return [layer], or for "all" the layers of AlexNet (conv1 to conv5, fc6, fc7) or a ResNet (layer1 to layer4).

    Raises WrongUse for a layer the network does not have, and for "all" with another architecture.
    """
    if layer != "all":
        path_of(network, layer)
        return [layer]
    if isinstance(network, AlexNet):
        return list(ALEXNET)
    if all(hasattr(network, stage) for stage in STAGES):
        return list(STAGES)
    raise WrongUse(
        f"--layer all works for AlexNet and ResNets only; give one module of this {type(network).__name__}, such as "
        f"{next(name for name, _ in network.named_modules() if name)}"
    )


def path_of(network: nn.Module, layer: str) -> str:
    """Return a layer's dotted path, given that or AlexNet's common names. Raises WrongUse for an unknown layer."""
    path = ALEXNET.get(layer, layer) if isinstance(network, AlexNet) else layer
    known = [name for name, _ in network.named_modules() if name]
    if path not in known:
        near = [*ALEXNET, *known] if isinstance(network, AlexNet) else known
        raise WrongUse(f"this {type(network).__name__} has no layer {layer!r}{suggest(layer, near)}")
    return path


def at_layer(backbone: Backbone, layer: str) -> Backbone:
    """Return the backbone with an inner layer as its feature. Raises WrongUse for an unknown layer."""
    module = LayerFeatures(backbone.module, path_of(backbone.module, layer)).eval()
    example = backbone.preprocessing.transform(Image.new("RGB", (256, 256)))
    dim = feature_width(module, torch.stack([example, example]), f"{backbone.name} at {layer}")
    return replace(backbone, module=module, dim=dim, feature=f"{layer}, pooled to {dim} numbers")
