"""What a live teacher sees: the student's crops, cut from the same images at the size of the teacher's input."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.images.beton_format import Beton
from pipeline.images.decode import UnreadableImage
from pipeline.images.preprocessing import Preprocessing
from pipeline.loading.random_crop import RandomCrop, first_view
from pipeline.runtime.distributed import cores_of_rank


class TeacherCrops:
    """The crops of the student's first view, cut and resized as stage one would: by PIL, in threads.

    beton: of the images. plan, seed: the student's. settings: the teacher's preprocessing.
    """

    def __init__(self, beton: Beton, plan: RandomCrop, seed: int, settings: Preprocessing) -> None:
        self.beton, self.plan, self.seed, self.settings = beton, plan, seed, settings
        self.threads = ThreadPoolExecutor(cores_of_rank(), "teacher-crops")

    def start(self, rows: Tensor, epoch: int) -> list[Future[Tensor]]:
        """Begin to cut the crops of rows (B,) in an epoch, see `crop`."""
        return [self.threads.submit(self.crop, row, epoch) for row in rows.tolist()]

    def of(self, rows: Tensor, epoch: int) -> Tensor:
        """Return the crops of rows (B,) in an epoch, float32 (B, 3, crop, crop), normalized."""
        return stacked(self.start(rows, epoch))

    def crop(self, row: int, epoch: int) -> Tensor:
        """Return the crop of a row, float32 (3, crop, crop), normalized. PipelineError if it cannot be decoded."""
        try:
            image = self.beton.image(row)
        except UnreadableImage as error:
            raise PipelineError(
                f"row {row} of {self.beton.path} cannot be decoded ({error}): delete it and run `pack` again"
            ) from error
        view = first_view(self.plan, self.seed, epoch, row, image.height, image.width)
        return self.settings.normalized(self.settings.cut(image, view))


def stacked(crops: Sequence[Future[Tensor]]) -> Tensor:
    """Wait for crops, and return them as a batch, float32 (B, 3, crop, crop)."""
    return torch.stack([crop.result() for crop in crops])
