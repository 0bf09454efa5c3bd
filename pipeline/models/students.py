"""Students: networks without classifier that are trained from a cache. Widths as in CompRess (arXiv 2010.14713)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError, WrongUse, first_line, suggest
from pipeline.models.architectures import Network, checked_features, feature_width, guarded_call, open_network
from pipeline.runtime.out_of_memory import is_out_of_memory


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

    `network` is the bare architecture; its state dict has torchvision's, timm's or the user's own names. code: of a
    user's own network, a hash of everything but its weights.
    """

    def __init__(
        self, network: nn.Module, *, name: str, image_size: int, dim: int, feature: str, code: str = ""
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.image_size = image_size
        self.dim = dim
        self.feature = feature
        self.code = code

    def forward(self, images: Tensor) -> Tensor:
        is_guarded = self.code and not torch.compiler.is_compiling()  # a user's own may fail in any way
        output = guarded_call(self.network, images, self.name) if is_guarded else self.network(images)
        return checked_features(output, len(images), self.dim, self.name)


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
    _drop_auxiliary_heads(network.module)
    dim = feature_width(network.module, torch.zeros(2, 3, image_size, image_size), name)
    return Student(
        network.module,
        name=name,
        image_size=image_size,
        dim=dim,
        feature=network.feature,
        code=network.code,
    )


def _drop_auxiliary_heads(module: nn.Module) -> None:
    """Remove the heads that GoogLeNet and Inception v3 return in training mode beside their features."""
    if getattr(module, "aux_logits", False) is True:
        vars(module)["aux_logits"] = False
        for name in ("aux1", "aux2", "AuxLogits"):
            if name in module._modules:
                setattr(module, name, None)


def require_trainable(student: Student, images: int) -> None:
    """Try a student in training mode on as many images as a rank has per step, at most two.

    The student does not change. Raises WrongUse if all its parameters are frozen, if its features have another shape
    in training mode, or if it cannot train on one image, as with batch normalization.
    """
    if not any(parameter.requires_grad for parameter in student.network.parameters()):
        raise WrongUse(
            f"{student.name} has no parameter to train: all are frozen; set requires_grad of those to train"
        )
    count = min(images, 2)
    try:
        output = _output_in_training(student, count)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        hint = "; give a larger --batch-size, or fewer ranks" if count == 1 else ""
        raise WrongUse(
            f"{student.name} cannot be trained on {images} image{'s' if images > 1 else ''} per step and rank: "
            f"{first_line(error)}{hint}"
        ) from error
    try:
        features = checked_features(output, count, student.dim, student.name)
    except PipelineError as error:
        raise WrongUse(f"in training mode {error}") from error
    if not features.requires_grad:
        raise WrongUse(f"{student.name} passes on no gradient: its forward must not use no_grad or detach")


def _output_in_training(student: Student, count: int) -> object:
    """Return the network's output for `count` images in training mode; its buffers and mode stay."""
    network, side = student.network, student.image_size
    examples = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    buffers = {key: buffer.clone() for key, buffer in network.named_buffers()}
    was_training = network.training
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            return torch.func.functional_call(network.train(), buffers, (examples,))
    finally:
        network.train(was_training)


def _known_names() -> str:
    return f"; known are {', '.join(STUDENTS)}, timm/NAME, torchvision/NAME and package.module:function"
