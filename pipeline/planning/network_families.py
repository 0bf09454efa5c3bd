"""How many operations a second a network does on a GPU, relative to a ResNet-50: from timm's published tables."""

import re
from typing import NamedTuple

# Mixed precision, channels last as here. With channels first a ResNet-50 itself is slower, and factors are larger.
TABLES = (
    "github.com/huggingface/pytorch-image-models, results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv and "
    "results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"
)


class Family(NamedTuple):
    """Networks of one kind, and the row of timm's tables that stands for them.

    pattern: of their names. gmacs: 10^9 multiply-adds an image. forward, training: images/s on an RTX 4090 and on an
    RTX 3090; training is None where the table has no such row.
    """

    pattern: str
    row: str
    gmacs: float
    forward: float
    training: float | None


RESNET50 = Family(r"resnet_?50(x1)?(?![0-9a-z])", "resnet50", 4.11, 5088.39, 1218.01)
FAMILIES = (
    Family(r"resnet_?18(?![0-9a-z])", "resnet18", 1.82, 18247.43, 3481.78),
    Family(r"resnet_?50[wx]2", "resnetv2_152x2_bit", 46.95, 732.09, None),
    Family(r"resnet_?50[wx][45]", "resnetv2_152x4_bit", 186.9, 254.45, None),
    RESNET50,
    Family(r"mobilenet_?v2", "mobilenetv2_100", 0.31, 11768.03, 2313.1),
    Family(r"efficientnet_?b0", "efficientnet_b0", 0.4, 9831.68, 1751.72),
    Family(r"efficientnet_?lite0|^demo$", "efficientnet_lite0", 0.4, 11509.61, 2079.28),
    Family(r"vit_?s(mall)?(?![a-z])", "vit_small_patch16_224", 4.61, 7695.68, 1057.92),
    Family(r"vit_?b(ase)?(?![a-z])", "vit_base_patch16_224", 17.58, 2843.0, 392.99),
    Family(r"vit_?l(arge)?(?![a-z])", "vit_large_patch14_224", 81.08, 676.33, 85.06),
    Family(r"vit_?g(iant)?(?![a-z])", "vit_giant_patch14_224", 267.18, 228.92, None),
)


def family_of(name: str) -> Family | None:
    """Return the family of a teacher or student, by its name, or None if the tables have none like it."""
    return next((family for family in FAMILIES if re.search(family.pattern, name)), None)


def relative_speed(name: str, *, training: bool) -> float:
    """Return a network's operations a second over those of a ResNet-50; 1 for an unknown one.

    Where the tables have no training, it is the factor of the forward pass.
    """
    family = family_of(name)
    if family is None:
        return 1.0
    if training and family.training and RESNET50.training:
        return family.training * family.gmacs / (RESNET50.training * RESNET50.gmacs)
    return family.forward * family.gmacs / (RESNET50.forward * RESNET50.gmacs)


def describe_speed(name: str, *, training: bool) -> str:
    """Describe the factor and where it comes from, in a phrase."""
    family = family_of(name)
    source = f"timm's {family.row}" if family else "unknown"
    return f"{name} {relative_speed(name, training=training):.2f} ({source})"
