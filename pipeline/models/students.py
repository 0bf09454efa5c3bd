"""Students: networks without classifier that are trained from a cache. Widths as in CompRess (arXiv 2010.14713)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import WrongUse, suggest
from pipeline.models.architectures import Network, checked_features, feature_width, open_network


@dataclass(frozen=True, kw_only=True)
class StudentEntry:
    """A named student. dim: feature width. smallest: input size in pixels. feature: which layer the features are."""

    dim: int
    smallest: int
    feature: str
    description: str


# Below 16 px, half the stride, the last map of a ResNet or MobileNet is mostly padding; below 63 px AlexNet's last
# pooling has an empty input.
STUDENTS = {
    "resnet18": StudentEntry(
        dim=512, smallest=16, feature="global average pool", description="ResNet-18, 11.2 M parameters"
    ),
    "resnet50": StudentEntry(
        dim=2048, smallest=16, feature="global average pool", description="ResNet-50, 23.5 M parameters"
    ),
    "mobilenet_v2": StudentEntry(
        dim=1280, smallest=16, feature="global average pool", description="MobileNetV2, 2.2 M parameters"
    ),
    "alexnet": StudentEntry(
        dim=4096,
        smallest=63,
        feature="fc7 after ReLU",
        description="AlexNet without BatchNorm and dropout, 57 M parameters",
    ),
}


class Student(nn.Module):
    """A network without classifier: images (B, 3, H, W) -> raw features (B, dim), not normalised.

    `network` is the bare architecture; its state dict has torchvision's, timm's or the user's own names.
    """

    def __init__(self, network: nn.Module, *, name: str, image_size: int, dim: int, feature: str) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.image_size = image_size
        self.dim = dim
        self.feature = feature

    def forward(self, images: Tensor) -> Tensor:
        return checked_features(self.network(images), len(images), self.dim, self.name)


def build_student(name: str, *, image_size: int, seed: int) -> Student:
    """Build a student in training mode, initialized from the seed. The global random state does not change.

    name: one of STUDENTS, timm/NAME, torchvision/NAME or package.module:function. image_size: in pixels.
    Raises WrongUse for an unknown name or too small images, PipelineError if the user's function fails.
    """
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would also seed the GPUs, whose state is not restored here
        torch.default_generator.manual_seed(seed)
        if name in STUDENTS:
            student = _named(name, image_size)
        elif name.startswith(("timm/", "torchvision/")) or ":" in name:
            student = _opened(name, image_size)
        else:
            raise WrongUse(f"unknown student {name!r}{suggest(name, STUDENTS) or _known_names()}")
    return student.train()


def _named(name: str, image_size: int) -> Student:
    entry = STUDENTS[name]
    if image_size < entry.smallest:
        raise WrongUse(
            f"{name} needs images of at least {entry.smallest} px, found {image_size} px; give a larger "
            "--image-size or choose another student"
        )
    network = open_network(f"torchvision/{name}").module
    return Student(network, name=name, image_size=image_size, dim=entry.dim, feature=entry.feature)


def _opened(name: str, image_size: int) -> Student:
    network: Network = open_network(name, image_size)
    if network.settings is not None:
        raise WrongUse(
            f"{name} returns a preprocessing, but a student's images come from the dataset, normalized by "
            "ImageNet's mean and std; return only the module"
        )
    dim = feature_width(network.module, torch.zeros(1, 3, image_size, image_size), name)
    return Student(network.module, name=name, image_size=image_size, dim=dim, feature=network.feature)


def _known_names() -> str:
    return f"; known are {', '.join(STUDENTS)}, timm/NAME, torchvision/NAME and package.module:function"
