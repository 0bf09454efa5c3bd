"""Teachers of published architectures with seeded random weights, at a small input size."""

import timm
import torch
from torch import nn

PREPROCESSING = {"resize": 64, "crop": 64, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def resnet50() -> tuple[nn.Module, dict]:
    torch.manual_seed(0)
    return timm.create_model("resnet50", num_classes=0), PREPROCESSING


def vit() -> tuple[nn.Module, dict]:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64), PREPROCESSING
