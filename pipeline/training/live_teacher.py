"""The teacher in the training loop: the control against which a cache is measured. It sees the student's very crop."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from cache.reader import Store
from pipeline.errors import WrongUse
from pipeline.images.preprocessing import IMAGENET, Preprocessing
from pipeline.loading.batch import Batch
from pipeline.models.backbone import Backbone
from pipeline.settings.commands import DistillConfig
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache


class LiveTeacher:
    """A frozen teacher for crops that were made for a student.

    backbone: whose preprocessing is a `Preprocessing`. precision: of the forward pass, fp32 or bf16, whatever
    the student's is. The crop is not cut again: it is resized to the teacher's input as PIL resizes, and
    normalised by the teacher's mean and deviation.
    """

    def __init__(self, backbone: Backbone, *, precision: str, device: str) -> None:
        assert isinstance(backbone.preprocessing, Preprocessing), backbone.preprocessing
        self.name, self.preprocessing = backbone.name, backbone.preprocessing
        self.module = backbone.module.to(device).to(memory_format=torch.channels_last)
        self.precision, self.device = precision, device
        triples = (IMAGENET.mean, IMAGENET.std, self.preprocessing.mean, self.preprocessing.std)
        self.given_mean, self.given_std, self.mean, self.std = (
            torch.tensor(triple, device=device).view(1, 3, 1, 1) for triple in triples
        )

    def join(self, batch: Batch) -> Batch:
        """The same batch with this teacher's unit embeddings of its first view, float32 (B, Dt), and their norms."""
        feature = self.embed(batch.images[0])
        return replace(batch, teacher=F.normalize(feature, dim=1), teacher_norm=feature.norm(dim=1))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Features (B, Dt) float32 of a student's images (B, 3, H, W), normalised by ImageNet's mean and deviation."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            feature: Tensor = self.module(self.as_input(images))
        return feature.float()

    def as_input(self, images: Tensor) -> Tensor:
        """A student's images (B, 3, H, W) as the teacher wants them: (B, 3, crop, crop)."""
        pixels = images * self.given_std + self.given_mean
        size = [self.preprocessing.crop] * 2
        if list(pixels.shape[2:]) != size:
            # in 8 bits, which the crop was in before: some networks see PIL's rounding of smooth pictures
            levels = pixels.mul_(255).round_().to(torch.uint8)
            mode = InterpolationMode(self.preprocessing.interpolation)
            pixels = resize(levels, size, mode).float().div_(255)
        return (pixels - self.mean) / self.std


def open_live_teacher(config: DistillConfig, cache: Store, device: str) -> LiveTeacher:
    """The very teacher that a cache was made by.

    Raises WrongUse when the cache does not tell which that is and --teacher does not either, or when its
    preprocessing is a person's own function, and IdentityMismatch, field by field, for another teacher.
    """
    made_by = cache.teacher
    preprocessing = made_by.get("preprocessing", {})
    if "crop" not in preprocessing:
        raise WrongUse(
            f"the teacher of {cache.path} has a preprocessing of its own, which cannot be fed with a student's crop; "
            "leave --live-teacher out"
        )
    _, backbone = open_teacher_of_cache(cache, config.teacher, config.weights)
    return LiveTeacher(backbone, precision=made_by["precision"], device=device)
