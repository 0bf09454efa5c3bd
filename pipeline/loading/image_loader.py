"""Batches of images from a .beton, joined to the teacher's cached rows.

The join happens in FFCV's pipeline: a batch's row numbers index the mapped chunks of the cache, so no process, queue or
copy stands between an image and its teacher embedding.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

import numpy as np
import torch
from ffcv.loader import Loader
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from cache.reader import Split
from cache.sigbus import require_kept
from cache.unmapped_rows import require_read
from pipeline.errors import PipelineError
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.batch import Batch
from pipeline.loading.color_jitter import ColorJitter
from pipeline.loading.ffcv_operations import ResumableOrder, pipelines
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop, stream

BATCHES_AHEAD = 2


class ImageLoader:
    """Batches of one .beton, joined to a cache where one is given.

    beton: the file. order: which rows, in which order. image_size: pixels. crops: one entry a view, None for the
    centre. teacher: the split of the cache whose view 0 is joined; its rows must all be there. colour: what
    happens to a view's colours, drawn from (seed, epoch, batch).
    Images come as float32 (B, 3, H, W), channels last in memory, normalised with ImageNet's mean and deviation.
    """

    def __init__(
        self,
        beton: Path,
        order: Order,
        *,
        image_size: int,
        crops: tuple[RandomCrop | None, ...] = (None,),
        seed: int = 0,
        teacher: Split | None = None,
        colour: ColorJitter | None = None,
        workers: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.beton, self.order, self.device = beton, order, torch.device(device)
        self.colour, self.seed = colour, seed
        self.views, self.joined = len(crops), teacher is not None
        self.mean = torch.tensor(IMAGENET.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET.std, device=self.device).view(1, 3, 1, 1)
        self.table = imagenet_table()
        self.resumable = ResumableOrder(order)
        self.draws = torch.Generator()  # of colours; seeded anew for each batch
        threads = torch.get_num_threads()
        self.loader = Loader(
            str(beton),
            batch_size=order.batch,
            num_workers=min(workers, len(os.sched_getaffinity(0))),  # more, and FFCV raises
            os_cache=True,
            order=self.resumable,
            indices=(),  # of FFCV's own orders
            drop_last=order.drop_last,
            batches_ahead=BATCHES_AHEAD,
            pipelines=pipelines(image_size, crops, seed, teacher),
        )
        torch.set_num_threads(threads)  # a Loader sets torch's threads to its own number
        self.loader.first_traversal_order = range(len(order.rows))  # FFCV keeps the rows, and asks how many

    def __len__(self) -> int:
        return self.order.batches

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `skip` on.

        Raises CorruptStore if a file was cut short meanwhile, PipelineError if a picture cannot be decoded.
        """
        self.resumable.skip = skip
        self.loader.next_epoch = epoch
        threads = torch.get_num_threads()
        batches = iter(self.loader)
        torch.set_num_threads(threads)
        try:
            for number, fields in enumerate(batches, start=skip):
                require_kept()
                require_read()
                self.draws.manual_seed(int(stream(self.seed, epoch, number, self.order.rank)))
                yield self.batch(fields)
            if batches.error:
                require_kept()
                raise PipelineError(
                    f"{self.beton} cannot be decoded ({batches.error!r}): delete it and run `pack` again, which makes "
                    "it anew"
                ) from batches.error
        finally:
            batches.close()

    def batch(self, fields: tuple[torch.Tensor, ...]) -> Batch:
        """FFCV's buffers are a ring that it writes again: everything kept is copied here."""
        rows, labels, *rest = fields
        teacher = rest.pop().view(torch.float16) if self.joined else None
        return Batch(
            images=tuple(self.normalise(pixels) for pixels in rest),
            rows=rows.clone(),
            labels=labels.clone().to(self.device),
            teacher=None if teacher is None else teacher.clone().to(self.device, non_blocking=True),
        )

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> normalised float32 (B, 3, H, W) on the device."""
        if self.device.type == "cpu" and not self.colour:
            return look_up(pixels, self.table)
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        if self.colour:
            images = self.colour(images, self.draws)
        return images.sub_(self.mean).div_(self.std)


def imagenet_table() -> NDArray[np.float32]:
    """(3, 256) float32: what each byte of each channel is, less ImageNet's mean and over its deviation."""
    mean, std = (torch.tensor(numbers).view(3, 1) for numbers in (IMAGENET.mean, IMAGENET.std))
    return torch.arange(256).float().div_(255).sub(mean).div_(std).numpy()


def look_up(pixels: Tensor, table: NDArray[np.float32]) -> Tensor:
    """uint8 (B, H, W, 3) on the CPU -> float32 (B, 3, H, W), channels last in memory."""
    # numpy asks the system for huge pages, and fresh memory of small ones would cost more than what is written to it
    out = np.empty(tuple(pixels.shape), np.float32)
    _look_up(pixels.contiguous().numpy().reshape(-1, 3), table, out.reshape(-1, 3))
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _look_up(pixels, table, out):  # type: ignore[no-untyped-def]
    for place in range(len(pixels)):
        for channel in range(3):
            out[place, channel] = table[channel, pixels[place, channel]]
