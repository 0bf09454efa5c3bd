"""Features from inside a network: a layer's output, its map pooled to about 9,000 numbers.

The sizes are those of the usual protocol for AlexNet's layers (Zhang, Isola and Efros, ECCV 2016, arXiv 1603.08511).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import AlexNet

from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.models.architectures import describe
from pipeline.models.backbone import Backbone

MOST_NUMBERS = 9_600
# after each ReLU, as in the papers that probe these layers
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
    """Images (B, 3, H, W) -> what a layer gives for them (B, dim), pooled over the map if it is one.

    path: of a module of the network, dotted. Its output must be (B, C, H, W) or (B, D).
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
            raise PipelineError(f"the layer {self.path} takes no part when images pass the network")
        return found

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            raise PipelineError(
                f"the layer {self.path} gives {describe(output)}; a probe needs a map (B, C, H, W) or rows (B, D)"
            )
        # a copy either way: the next layer may work in place
        self.found = pooled(output) if output.ndim == 4 else output.clone()


def pooled(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> (B, C * h * w), averaged over the largest square grid of at most 9,600 numbers."""
    channels, height, width = maps.shape[1:]
    side = max(1, int((MOST_NUMBERS / channels) ** 0.5))
    return F.adaptive_avg_pool2d(maps, (min(side, height), min(side, width))).flatten(1)


def layers_of(network: nn.Module, asked: str) -> list[str]:
    """The layer asked for, or with "all" those of AlexNet (conv1 to conv5, fc6, fc7) or of a ResNet (layer1 to 4).

    Raises WrongUse for a layer that the network has not, and for "all" of another architecture.
    """
    if asked != "all":
        path_of(network, asked)
        return [asked]
    if isinstance(network, AlexNet):
        return list(ALEXNET)
    if all(hasattr(network, stage) for stage in STAGES):
        return list(STAGES)
    raise WrongUse(
        f"--layer all is for AlexNet and ResNets; name one module of this {type(network).__name__}, such as "
        f"{next(name for name, _ in network.named_modules() if name)}"
    )


def path_of(network: nn.Module, layer: str) -> str:
    """The dotted path of a layer by the name that people use, or by its own. Raises WrongUse."""
    path = ALEXNET.get(layer, layer) if isinstance(network, AlexNet) else layer
    known = [name for name, _ in network.named_modules() if name]
    if path not in known:
        near = [*ALEXNET, *known] if isinstance(network, AlexNet) else known
        raise WrongUse(f"this {type(network).__name__} has no layer {layer!r}{suggest(layer, near)}")
    return path


def at_layer(backbone: Backbone, layer: str) -> Backbone:
    """The same backbone whose feature is a layer inside it. Raises WrongUse for a layer that it has not."""
    module = LayerFeatures(backbone.module, path_of(backbone.module, layer)).eval()
    example = backbone.preprocessing.transform(Image.new("RGB", (256, 256)))
    with torch.inference_mode():
        dim = module(example[None]).shape[1]
    return replace(backbone, module=module, dim=dim, feature=f"{layer}, pooled to {dim} numbers")
