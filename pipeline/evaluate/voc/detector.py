"""torchvision's Faster R-CNN (Ren, He, Girshick, Sun, NeurIPS 2015) with a student as its backbone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from pipeline.errors import PipelineError
from pipeline.models.backbone import Backbone
from pipeline.models.layer_features import STAGES

MAPS = ["0", "1", "2", "3"]
LONGEST_SIDE = 1000 / 600  # in shorter sides, as in Fast R-CNN
ANCHORS = (32, 64, 128, 256, 512)  # px, for images whose shorter side is 600 px
RATIOS = (0.5, 1.0, 2.0)
POOLED = 7
INPUT_SIZE = 128  # px, of the image that shapes are taken from


@dataclass(frozen=True, kw_only=True)
class DetectorShape:
    """Sizes of a detector.

    image_size: shorter side of its input in px. proposals: regions proposed per training image. regions: how many of
    them the loss is computed on. head, pyramid: dims of the box head and of the feature pyramid.
    """

    image_size: int = 600
    proposals: int = 2000
    regions: int = 128
    head: int = 1024
    pyramid: int = 256


def build_detector(backbone: Backbone, classes: int, shape: DetectorShape, seed: int) -> FasterRCNN:
    """Build a detector of `classes` classes, numbered from 1, with all layers trainable. It owns the student.

    A ResNet gets a feature pyramid over its four stages; a model whose convolutions are `features`, such as AlexNet
    and MobileNetV2, uses their last feature map. The student's own layers after it, AlexNet's fc6 and fc7, are the box
    head; a student without any gets two new layers. New layers are initialized from the seed alone.

    Raises PipelineError for any other student.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build_trunk(backbone.module.requires_grad_(True), backbone.name, shape.pyramid)
        maps, sizes = MAPS[:1], [tuple(_anchor_sizes(shape))]
        if isinstance(module, BackboneWithFPN):
            maps, sizes = MAPS, [(size,) for size in _anchor_sizes(shape)]
        preprocessing = backbone.preprocessing.identity()
        side, head = build_head(backbone.module, module.out_channels) or (
            POOLED,
            TwoMLPHead(module.out_channels * POOLED**2, shape.head),
        )
        width = run_once(head, module.out_channels, side).shape[1]
        return FasterRCNN(
            module,
            min_size=shape.image_size,
            max_size=round(shape.image_size * LONGEST_SIDE),
            image_mean=preprocessing["mean"],
            image_std=preprocessing["std"],
            rpn_anchor_generator=AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes)),
            rpn_pre_nms_top_n_train=shape.proposals,
            rpn_post_nms_top_n_train=shape.proposals,
            box_roi_pool=MultiScaleRoIAlign(maps, output_size=side, sampling_ratio=2),
            box_head=head,
            box_predictor=FastRCNNPredictor(width, classes + 1),
            box_batch_size_per_image=shape.regions,
        )


class LastMap(nn.Sequential):
    """Layers with one feature map as output, (B, 3, H, W) -> (B, out_channels, h, w): a backbone for torchvision."""

    out_channels: int

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.out_channels = run_once(self).shape[1]


def build_trunk(network: nn.Module, name: str, pyramid: int) -> BackboneWithFPN | LastMap:
    """Return the part of a network that computes feature maps. Raises PipelineError if it has none."""
    if all(hasattr(network, stage) for stage in STAGES):
        stages = dict(zip(STAGES, MAPS, strict=True))
        return BackboneWithFPN(network, stages, stage_channels(network), pyramid)
    if isinstance(features := getattr(network, "features", None), nn.Sequential):
        layers = list(features)
        # AlexNet's last pooling only serves fc6, and would halve the resolution
        return LastMap(layers[:-1] if isinstance(layers[-1], nn.MaxPool2d) else layers)
    raise PipelineError(
        f"no feature maps are known in {name}: expected a ResNet's {', '.join(STAGES)}, or `features` as in "
        "AlexNet and MobileNetV2; detection needs such a student"
    )


def build_head(network: nn.Module, channels: int) -> tuple[int, nn.Sequential] | None:
    """Return the layers between a network's last feature map and its features, and the side of the map they take.

    None if none of them has weights. `build_trunk` leaves out a pooling at the end of `features`, which comes first.
    """
    if not has_own_head(network):
        return None
    average, classifier = network.get_submodule("avgpool"), network.get_submodule("classifier")
    layers, side = [average, nn.Flatten(1), classifier], POOLED
    pooling = list(network.get_submodule("features").children())[-1]
    if isinstance(pooling, nn.MaxPool2d):
        linear = next(layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
        pooled = math.isqrt(linear.in_features // channels)
        # AlexNet: 13, as of an image of 224 px
        side = (pooled - 1) * _side(pooling.stride) + _side(pooling.kernel_size)
        layers.insert(0, pooling)
    return side, nn.Sequential(*layers)


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def has_own_head(network: nn.Module) -> bool:
    """Whether a network has linear layers after its convolutions, as AlexNet has with fc6 and fc7."""
    parts = dict(network.named_children())
    names = {"features", "avgpool", "classifier"}
    return names <= parts.keys() and any(
        isinstance(part, nn.Linear) for part in parts["classifier"].modules()
    )


def stage_channels(network: nn.Module) -> list[int]:
    """Return the numbers of channels of a ResNet's four stages."""
    channels: list[int] = []

    def record(layer: nn.Module, inputs: object, output: Tensor) -> None:
        channels.append(output.shape[1])

    hooks = [network.get_submodule(stage).register_forward_hook(record) for stage in STAGES]
    run_once(network)
    for hook in hooks:
        hook.remove()
    return channels


def run_once(module: nn.Module, channels: int = 3, side: int = INPUT_SIZE) -> Tensor:
    """Return the module's output for one black image, or map of this shape, in eval mode."""
    with torch.inference_mode():
        return module.eval()(torch.zeros(1, channels, side, side))


def _anchor_sizes(shape: DetectorShape) -> list[int]:
    return [round(size * shape.image_size / 600) for size in ANCHORS]
