"""The teacher in the training loop, on the student's own crops: the baseline that a cache is compared with."""

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
from pipeline.models.architectures import checked_features, guarded_call
from pipeline.models.backbone import Backbone
from pipeline.settings.training import DistillConfig
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache


class LiveTeacher:
    """A frozen teacher that embeds the crops of a student.

    backbone: its preprocessing is a `Preprocessing`. precision: of its forward pass, fp32 or bf16, independent of the
    student's. A crop is not cropped again: it is resized to the teacher's input as PIL does, and normalized by the
    teacher's mean and std.
    """

    def __init__(self, backbone: Backbone, *, precision: str, device: torch.device) -> None:
        assert isinstance(backbone.preprocessing, Preprocessing), backbone.preprocessing
        self.name, self.dim, self.preprocessing = backbone.name, backbone.dim, backbone.preprocessing
        self.module = backbone.module.to(device).to(memory_format=torch.channels_last)
        self.precision, self.device = precision, device
        channels = (IMAGENET.mean, IMAGENET.std, self.preprocessing.mean, self.preprocessing.std)
        self.student_mean, self.student_std, self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in channels
        )

    def add_embeddings(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's unit embeddings of its first view, float32 (B, Dt), and their norms."""
        feature = self.embed(batch.images[0])
        return replace(batch, teacher=F.normalize(feature, dim=1), teacher_norm=feature.norm(dim=1))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings, float32 (B, Dt), of images (B, 3, H, W) normalized by ImageNet's mean and std."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = guarded_call(self.module, self.preprocess(images), self.name)
        return checked_features(output, len(images), self.dim, self.name).float()

    def preprocess(self, images: Tensor) -> Tensor:
        """Return a student's images (B, 3, H, W) as the teacher's input (B, 3, crop, crop)."""
        pixels = images * self.student_std + self.student_mean
        size = [self.preprocessing.crop] * 2
        if list(pixels.shape[2:]) != size:
            # in 8 bits, like the crop before: some networks are sensitive to PIL's rounding of smooth images
            levels = pixels.mul_(255).round_().to(torch.uint8)
            mode = InterpolationMode(self.preprocessing.interpolation)
            pixels = resize(levels, size, mode).float().div_(255)
        return (pixels - self.mean) / self.std


def open_live_teacher(config: DistillConfig, cache: Store, device: torch.device) -> LiveTeacher:
    """Open the teacher that computed a cache.

    Raises WrongUse if neither the cache nor --teacher names it, or if its preprocessing is the user's own function,
    and IdentityMismatch, field by field, for another teacher.
    """
    made_by = cache.teacher
    preprocessing = made_by.get("preprocessing", {})
    if "crop" not in preprocessing:
        raise WrongUse(
            f"the teacher of {cache.path} has its own preprocessing function, which cannot take a student's crops; "
            "leave --live-teacher out"
        )
    _, backbone = open_teacher_of_cache(cache, config.teacher, config.weights)
    return LiveTeacher(backbone, precision=made_by["precision"], device=device)
