"""Published self-supervised teachers, and the students of CompRess: architecture, layouts of their files, input."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from pipeline.images.preprocessing import IMAGENET, Preprocessing
from pipeline.models.architectures import torchvision_network
from pipeline.models.state_dict_layout import Layout, own_names
from pipeline.models.wide_resnet import WideResNet50
from pipeline.teachers.checkpoint_layouts import (
    COMPRESS_ALEXNET,
    DINO,
    DINO_FULL,
    DINOV2,
    DINOV2_SWIGLU,
    MOCO,
    SIMCLR_FLAT,
    SWAV,
    compress,
)
from pipeline.teachers.entry import POOLED, TeacherEntry, published

BICUBIC = replace(IMAGENET, interpolation="bicubic")


def resnet50(
    method: str,
    *,
    layouts: tuple[Layout, ...],
    licence: str,
    weights: str,
    width: int = 1,
    letter: str = "",
    preprocessing: Preprocessing = IMAGENET,
    checksum: str = "",
) -> TeacherEntry:
    """Define a ResNet-50 teacher. letter: what the method puts before the width in the name of a wider one."""
    return published(
        f"{method}, ResNet-50" + (f", {width} times as wide" if width > 1 else ""),
        build=partial(WideResNet50, width),
        architecture="ResNet-50" + (f" {letter}{width}" if width > 1 else ""),
        dim=2048 * width,
        layouts=layouts,
        preprocessing=preprocessing,
        licence=licence,
        weights=weights,
        checksum=checksum,
    )


def swav(width: int, file: str, epochs: int) -> TeacherEntry:
    """Define a SwAV teacher (Caron et al. 2020, arXiv 2006.09882); its first std is 0.228."""
    return resnet50(
        f"SwAV, {epochs} epochs",
        width=width,
        letter="w",
        layouts=(SWAV,),
        preprocessing=replace(IMAGENET, std=(0.228, 0.224, 0.225)),
        licence="CC BY-NC 4.0",
        weights=f"{file} of github.com/facebookresearch/swav",
    )


def simclr(width: int) -> TeacherEntry:
    """Define a SimCLR v1 teacher (Chen et al. 2020, arXiv 2002.05709); its input is [0, 1], not standardized."""
    unscaled = replace(IMAGENET, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    file = f"resnet50-{width}x.pth as converted by github.com/tonylins/simclr-converter"
    layouts, licence = (own_names("fc"), SIMCLR_FLAT), "Apache-2.0"
    return resnet50(
        "SimCLR v1",
        width=width,
        letter="x",
        layouts=layouts,
        preprocessing=unscaled,
        licence=licence,
        weights=file,
    )


def transformer(
    name: str, build: Callable[[], nn.Module], dim: int, layouts: tuple[Layout, ...], weights: str
) -> TeacherEntry:
    """Define a DINO or DINOv2 vision transformer. name: METHOD, NETWORK."""
    return published(
        name,
        build=build,
        architecture=name.rpartition(", ")[2],
        dim=dim,
        layouts=layouts,
        preprocessing=BICUBIC,
        feature="class token after the last LayerNorm",
        licence="Apache-2.0",
        weights=weights,
    )


def dino(patch: int, dim: int, file: str) -> TeacherEntry:
    """Define a DINO transformer (Caron et al. 2021, arXiv 2104.14294)."""

    def build() -> nn.Module:
        from pipeline.models.dino_vit import dino_transformer

        return dino_transformer(patch, dim)

    name = f"DINO, ViT-{'S' if dim == 384 else 'B'}/{patch}"
    return transformer(name, build, dim, (DINO, DINO_FULL), f"{file} of github.com/facebookresearch/dino")


def dinov2(size: str, dim: int, depth: int) -> TeacherEntry:
    """Define a DINOv2 transformer without registers (Oquab et al. 2023, arXiv 2304.07193)."""

    def build() -> nn.Module:
        from pipeline.models.dino_vit import dinov2_transformer

        return dinov2_transformer(dim, depth)

    weights = f"dinov2_vit{size.lower()}14_pretrain.pth of github.com/facebookresearch/dinov2"
    layout = DINOV2_SWIGLU if size == "g" else DINOV2
    return transformer(f"DINOv2, ViT-{size}/14", build, dim, (layout,), weights)


def compress_student(
    student: str, title: str, dim: int, layouts: tuple[Layout, ...], feature: str = POOLED
) -> TeacherEntry:
    """Define a student trained by the authors of CompRess, to be embedded and evaluated like a teacher."""
    return published(
        f"{title}, a student trained by the authors of CompRess",
        build=lambda: torchvision_network(student).module,
        architecture=title,
        dim=dim,
        layouts=layouts,
        feature=feature,
        licence="set by its authors; derived from MoCo's, SwAV's or SimCLR's weights",
        weights="a checkpoint of github.com/UMBCvision/CompRess",
    )


PUBLISHED = {
    "moco_v2_resnet50": resnet50(
        "MoCo v2, 800 epochs",
        layouts=(MOCO,),
        licence="CC BY-NC 4.0",
        weights="moco_v2_800ep_pretrain.pth.tar of github.com/facebookresearch/moco",
        checksum="md5 a04e12f8",
    ),
    "swav_resnet50": swav(1, "swav_800ep_pretrain.pth.tar", 800),
    "swav_resnet50w2": swav(2, "swav_RN50w2_400ep_pretrain.pth.tar", 400),
    "swav_resnet50w4": swav(4, "swav_RN50w4_400ep_pretrain.pth.tar", 400),
    "swav_resnet50w5": swav(5, "swav_RN50w5_400ep_pretrain.pth.tar", 400),
    "simclr_resnet50x1": simclr(1),
    "simclr_resnet50x2": simclr(2),
    "simclr_resnet50x4": simclr(4),
    "dino_vits16": dino(16, 384, "dino_deitsmall16_pretrain.pth"),
    "dino_vits8": dino(8, 384, "dino_deitsmall8_pretrain.pth"),
    "dino_vitb16": dino(16, 768, "dino_vitbase16_pretrain.pth"),
    "dino_vitb8": dino(8, 768, "dino_vitbase8_pretrain.pth"),
    "dino_resnet50": resnet50(
        "DINO",
        layouts=(DINO, DINO_FULL),
        preprocessing=BICUBIC,
        licence="Apache-2.0",
        weights="dino_resnet50_pretrain.pth of github.com/facebookresearch/dino",
    ),
    "dinov2_vits14": dinov2("S", 384, 12),
    "dinov2_vitb14": dinov2("B", 768, 12),
    "dinov2_vitl14": dinov2("L", 1024, 24),
    "dinov2_vitg14": dinov2("g", 1536, 40),
    "compress_resnet18": compress_student("resnet18", "ResNet-18", 512, (compress("fc"),)),
    "compress_resnet50": compress_student("resnet50", "ResNet-50", 2048, (compress("fc"),)),
    "compress_mobilenet_v2": compress_student(
        "mobilenet_v2", "MobileNetV2", 1280, (compress("fc", "classifier.1"),)
    ),
    "compress_alexnet": compress_student(
        "alexnet", "AlexNet", 4096, (compress("fc", "classifier.6"), COMPRESS_ALEXNET), "fc7 after ReLU"
    ),
}
