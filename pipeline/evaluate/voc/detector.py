"""torchvision's Faster R-CNN (Ren, He, Girshick, Sun, NeurIPS 2015) on the trunk of a student."""

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

STAGES = ("layer1", "layer2", "layer3", "layer4")
MAPS = ["0", "1", "2", "3"]
LONGEST_SIDE = 1000 / 600  # of the shorter, as in Fast R-CNN
ANCHORS = (32, 64, 128, 256, 512)  # px, in images whose shorter side has 600
RATIOS = (0.5, 1.0, 2.0)
POOLED = 7
PROBE = 128


@dataclass(frozen=True, kw_only=True)
class DetectorShape:
    """Sizes of a detector: shorter side of its images in px, regions that are proposed in an image while it learns
    and those it learns from, widths of its head and of its feature pyramid."""

    image_size: int = 600
    proposals: int = 2000
    regions: int = 128
    head: int = 1024
    pyramid: int = 256


def build_detector(backbone: Backbone, classes: int, shape: DetectorShape, seed: int) -> FasterRCNN:
    """A detector of `classes` classes, numbered from 1, every layer of which learns; it takes the student over.

    A ResNet gets a feature pyramid over its four stages. A network whose convolutions are `features`, as
    AlexNet's and MobileNetV2's, gives their last map. New layers are drawn from the seed alone.

    Raises PipelineError for a student without either.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = trunk(backbone.module.requires_grad_(True), backbone.name, shape.pyramid)
        maps, sizes = MAPS[:1], [tuple(_scaled(shape))]
        if isinstance(module, BackboneWithFPN):
            maps, sizes = MAPS, [(size,) for size in _scaled(shape)]
        normalise = backbone.preprocessing.identity()
        return FasterRCNN(
            module,
            min_size=shape.image_size,
            max_size=round(shape.image_size * LONGEST_SIDE),
            image_mean=normalise["mean"],
            image_std=normalise["std"],
            rpn_anchor_generator=AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes)),
            rpn_pre_nms_top_n_train=shape.proposals,
            rpn_post_nms_top_n_train=shape.proposals,
            box_roi_pool=MultiScaleRoIAlign(maps, output_size=POOLED, sampling_ratio=2),
            box_head=TwoMLPHead(module.out_channels * POOLED**2, shape.head),
            box_predictor=FastRCNNPredictor(shape.head, classes + 1),
            box_batch_size_per_image=shape.regions,
        )


class LastMap(nn.Sequential):
    """Layers that give one feature map, (B, 3, H, W) -> (B, out_channels, h, w), as torchvision takes a trunk."""

    out_channels: int

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.out_channels = probe(self).shape[1]


def trunk(network: nn.Module, name: str, pyramid: int) -> BackboneWithFPN | LastMap:
    """What gives feature maps in a network."""
    if all(hasattr(network, stage) for stage in STAGES):
        stages = dict(zip(STAGES, MAPS, strict=True))
        return BackboneWithFPN(network, stages, stage_channels(network), pyramid)
    if isinstance(features := getattr(network, "features", None), nn.Sequential):
        layers = list(features)
        # AlexNet's last pooling makes room for fc6 and halves what a detector could tell apart
        return LastMap(layers[:-1] if isinstance(layers[-1], nn.MaxPool2d) else layers)
    raise PipelineError(
        f"no feature maps are known in {name}: expected a ResNet's {', '.join(STAGES)}, or `features` as in "
        "AlexNet and MobileNetV2; evaluate detection with such a student"
    )


def stage_channels(network: nn.Module) -> list[int]:
    """The widths of a ResNet's four stages."""
    widths: list[int] = []

    def note(layer: nn.Module, inputs: object, output: Tensor) -> None:
        widths.append(output.shape[1])

    hooks = [network.get_submodule(stage).register_forward_hook(note) for stage in STAGES]
    probe(network)
    for hook in hooks:
        hook.remove()
    return widths


def probe(module: nn.Module) -> Tensor:
    """What a module in eval mode gives for one black image."""
    with torch.inference_mode():
        return module.eval()(torch.zeros(1, 3, PROBE, PROBE))


def _scaled(shape: DetectorShape) -> list[int]:
    return [round(size * shape.image_size / 600) for size in ANCHORS]
