"""Batches of images from a .beton, joined to the teacher's cached rows.

The join happens in FFCV's pipeline: the row numbers of a batch index the mapped chunks of the cache, so there is no
process, queue or extra copy between an image and its teacher embedding.
"""

from collections.abc import Iterator
from pathlib import Path

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

import numba
import numpy as np
import torch
from ffcv.loader import Loader
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from cache.reader import Split
from cache.sigbus import require_intact_maps
from cache.unmapped_rows import require_rows_read
from pipeline.errors import PipelineError
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.batch import Batch
from pipeline.loading.color_jitter import ColorJitter
from pipeline.loading.ffcv_operations import ResumableOrder, pipelines
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop, stream
from pipeline.loading.replay import Replay
from pipeline.loading.staging import PinnedStaging
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import cores_of_rank

BATCHES_AHEAD = 2


class ImageLoader:
    """Batches of a .beton, optionally joined to a cache.

    Images are float32 (B, 3, H, W), channels last in memory, normalised with ImageNet's mean and std.

    order: which rows, in which order. image_size: in pixels. crops: one per view, None for the centre crop.
    teacher: the split of the cache whose view 0 is joined; it must have all of these rows. replay: takes the place of
    the only crop, and its views' embeddings that of view 0. color_jitter: applied to
    each view, seeded by (seed, epoch, batch, rank). workers: number of threads that decode, see
    `decoding_threads`; no bit of a batch depends on it. device: of the batches.
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
        replay: Replay | None = None,
        color_jitter: ColorJitter | None = None,
        workers: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.beton, self.order, self.device = beton, order, device
        self.color_jitter, self.seed = color_jitter, seed
        self.joined, self.replay = teacher is not None, replay
        self.mean = torch.tensor(IMAGENET.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET.std, device=self.device).view(1, 3, 1, 1)
        self.table = imagenet_table()
        self.staging = PinnedStaging(self.device, order.batch) if self.device.type != "cpu" else None
        self.resumable = ResumableOrder(order)
        self.generator = torch.Generator()  # of the color jitter; seeded anew for each batch
        threads = torch.get_num_threads()
        self.loader = Loader(
            str(beton),
            batch_size=order.batch,
            num_workers=decoding_threads(workers, self.device),
            os_cache=True,
            order=self.resumable,
            indices=(),  # only FFCV's own orders use them
            drop_last=order.drop_last,
            batches_ahead=BATCHES_AHEAD,
            pipelines=pipelines(image_size, (replay,) if replay else crops, seed, teacher, replay),
        )
        torch.set_num_threads(threads)  # a Loader changes the number of torch's threads
        self.loader.first_traversal_order = range(len(order.rows))  # FFCV needs only its length

    def __len__(self) -> int:
        return self.order.batches

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, without the first `skip`.

        Raises CorruptStore if a file was truncated meanwhile, PipelineError if an image cannot be decoded.
        """
        if self.replay:
            self.replay.start(epoch)
        self.resumable.skip = skip
        self.loader.next_epoch = epoch
        threads = torch.get_num_threads()
        batches = iter(self.loader)
        torch.set_num_threads(threads)
        try:
            for number, fields in enumerate(batches, start=skip):
                require_intact_maps()
                require_rows_read()
                self.generator.manual_seed(int(stream(self.seed, epoch, number, self.order.rank)))
                yield self.batch(fields)
            if batches.error:
                require_intact_maps()
                raise PipelineError(
                    f"{self.beton} cannot be decoded ({batches.error!r}): delete it and run `pack` again"
                ) from batches.error
        finally:
            batches.close()

    def batch(self, fields: tuple[torch.Tensor, ...]) -> Batch:
        """Return FFCV's buffers as a Batch on the device. Everything is copied, because FFCV reuses its buffers."""
        if self.replay:
            fields = (*fields, torch.from_numpy(self.replay.norms[fields[0].numpy()]))
        rows, labels, *rest = self.staging.to_device(fields) if self.staging else fields
        norm = rest.pop() if self.replay else None
        teacher = rest.pop().view(torch.float16) if self.joined else None
        images = tuple(self.normalize(pixels) for pixels in rest)
        if not self.staging:
            rows, labels = rows.clone(), labels.clone()
            teacher = None if teacher is None else teacher.clone()
        return Batch(images=images, rows=rows, labels=labels, teacher=teacher, teacher_norm=norm)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels uint8 (B, H, W, 3) as normalised float32 (B, 3, H, W), a new tensor on the same device."""
        if self.device.type == "cpu" and not self.color_jitter:
            return look_up(pixels, self.table)
        images = pixels.permute(0, 3, 1, 2).float().div_(255)
        if self.color_jitter:
            images = self.color_jitter(images, self.generator)
        return images.sub_(self.mean).div_(self.std)


def decoding_threads(workers: int | None, device: torch.device) -> int:
    """Return `workers`, or the default for None, but no more than numba's threads.

    The default is this rank's share of the cores on CUDA, and 1 on the CPU, where the network needs the cores.
    """
    default = cores_of_rank() if device.type != "cpu" else 1
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return min(workers or default, most)  # numba raises for more


def imagenet_table() -> NDArray[np.float32]:
    """Return the normalised value of each byte of each channel, (3, 256) float32, with ImageNet's mean and std."""
    mean, std = (torch.tensor(numbers).view(3, 1) for numbers in (IMAGENET.mean, IMAGENET.std))
    return torch.arange(256).float().div_(255).sub(mean).div_(std).numpy()


def look_up(pixels: Tensor, table: NDArray[np.float32]) -> Tensor:
    """Return pixels uint8 (B, H, W, 3) as table values float32 (B, 3, H, W), channels last in memory; on the CPU."""
    # from numpy, which uses huge pages: touching new small pages would take longer than writing the values
    out = np.empty(tuple(pixels.shape), np.float32)
    _look_up(pixels.contiguous().numpy().reshape(-1, 3), table, out.reshape(-1, 3))
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _look_up(pixels, table, out):  # type: ignore[no-untyped-def]
    for place in range(len(pixels)):
        for channel in range(3):
            out[place, channel] = table[channel, pixels[place, channel]]
