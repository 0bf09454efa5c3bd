"""The teacher in the training loop, on the student's own crops: the baseline that a cache is compared with."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cache.reader import Store
from pipeline.embedding.extract import move_to_device
from pipeline.errors import WrongUse
from pipeline.images.beton_format import open_beton
from pipeline.images.dataset import DatasetSplit
from pipeline.images.preprocessing import Preprocessing
from pipeline.loading.batch import Batch
from pipeline.loading.random_crop import RandomCrop
from pipeline.loading.teacher_crops import TeacherCrops, stacked
from pipeline.models.architectures import checked_features, guarded_call
from pipeline.models.backbone import Backbone
from pipeline.settings.training import DistillConfig
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache

CROPS_REVISION = 2  # what a live teacher sees; 1 was the student's own pixels, enlarged


class LiveTeacher:
    """A frozen teacher that embeds the crops of a student, each cut at the size of the teacher's own input.

    precision: of its forward pass, fp32 or bf16, independent of the student's. crops: see `TeacherCrops`.
    """

    def __init__(
        self, backbone: Backbone, crops: TeacherCrops, *, precision: str, device: torch.device
    ) -> None:
        self.name, self.dim, self.crops = backbone.name, backbone.dim, crops
        move_to_device(backbone, device)
        self.module, self.precision, self.device = backbone.module, precision, device

    def add_embeddings(self, batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch with the teacher's unit embeddings of their first views, and the norms.

        teacher: float32 (B, Dt). The crops of the next batch are cut while the teacher embeds those of this one.
        """
        ahead: tuple[Batch, list[Future[Tensor]]] | None = None
        try:
            for batch in batches:
                present, ahead = ahead, (batch, self.crops.start(batch.rows, epoch))
                if present:
                    yield self.joined(*present)
            if ahead:
                yield self.joined(*ahead)
        finally:
            for crop in ahead[1] if ahead else ():
                crop.cancel()  # of a run that ends early

    def joined(self, batch: Batch, crops: Sequence[Future[Tensor]]) -> Batch:
        """Return a batch with the teacher's embeddings of its crops, and their norms."""
        feature = self.embed(stacked(crops))
        return replace(batch, teacher=F.normalize(feature, dim=1), teacher_norm=feature.norm(dim=1))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the features, float32 (B, Dt), of images (B, 3, H, W) that are normalized for the teacher."""
        images = images.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = guarded_call(self.module, images, self.name)
        return checked_features(output, len(images), self.dim, self.name).float()


def open_live_teacher(
    config: DistillConfig, cache: Store, images: DatasetSplit, device: torch.device
) -> LiveTeacher:
    """Open the teacher that computed a cache, for the crops that a run's student sees of these images.

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
    assert isinstance(backbone.preprocessing, Preprocessing), backbone.preprocessing
    beton, plan = open_beton(images.beton, images.labels), RandomCrop(scale=config.crop_scale)
    crops = TeacherCrops(beton, plan, config.seed, backbone.preprocessing)
    return LiveTeacher(backbone, crops, precision=made_by["precision"], device=device)
